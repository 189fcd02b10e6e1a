"""Order of events in a benchmark, with arms that are not processes and without a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from optadvise.benchmark import runner
from optadvise.benchmark.measurement import ArmCounts, ArmFailure, ArmMeasurement, ArmSummary, RoundSamples
from optadvise.benchmark.records import PeakMemory
from optadvise.benchmark.runner import ArmFailedError
from optadvise.benchmark.spec import Arm
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

BROKEN = ArmFailedError(ArmFailure(status="error", error="broken", code=ErrorCode.LIBRARY_ERROR))


def make_arm(label: str, **changes: Any) -> Arm:
    return replace(Arm(
        optimizer=label, label=label, role="candidate", path="a.B", package=None, variant=None, kwargs={},
        decay_argument=None,
    ), **changes)  # fmt: skip


OOM = ArmFailedError(ArmFailure(status="oom", error="no room", code=ErrorCode.OUT_OF_MEMORY))


class FakeArm:
    """Arm without a process, which writes calls to a shared log and raises given exceptions."""

    def __init__(
        self, label: str, log: list[str], errors: dict[str, BaseException] | None = None, **changes: Any
    ) -> None:
        self.arm = make_arm(label, **changes)
        self._log = log
        self._errors = errors or {}
        self._rounds = 0
        self.counts = ArmCounts(parameters=7)

    def _record(self, call: str) -> None:
        self._log.append(f"{call} {self.arm.label}")
        if call in self._errors:
            raise self._errors[call]

    def start(self) -> ArmCounts:
        self._record("start")
        return self.counts

    def measure_round(self) -> RoundSamples:
        self._rounds += 1
        self._record(f"round{self._rounds}")
        return RoundSamples({"step": [float(self._rounds)]})

    def finish(self, *, measures_bandwidth: bool) -> ArmSummary:
        self._record("finish")
        return ArmSummary(finite=True, device_bandwidth=1e9 if measures_bandwidth else None)

    def stop(self) -> None:
        self._log.append(f"stop {self.arm.label}")


def summarize(records: Sequence[ArmMeasurement]) -> list[tuple[str, int, bool]]:
    """Return each arm's label, number of rounds, and whether it has finished."""
    return [(r.arm.label, len(r.rounds), r.summary != ArmSummary()) for r in records]


def ignore_event(event: str, label: str, number: int) -> None:
    pass


def ignore_records(records: Sequence[ArmMeasurement]) -> None:
    pass


def measure(
    log: list[str], *arms: FakeArm, rounds: int = 3, save: Callable[[Sequence[ArmMeasurement]], None] = ignore_records
) -> list[ArmMeasurement]:
    return runner.run_arms(arms, rounds, progress=ignore_event, save=save)


def test_order_alternates_between_rounds() -> None:
    log: list[str] = []
    measure(log, FakeArm("a", log), FakeArm("b", log), FakeArm("c", log))
    assert log[:12] == [
        "start a", "start b", "start c",
        "round1 a", "round1 b", "round1 c",
        "round2 c", "round2 b", "round2 a",
        "round3 a", "round3 b", "round3 c",
    ]  # fmt: skip
    # Each arm is stopped before the next finishes, so that freeing its memory does not affect the next.
    assert log[12:18] == ["finish a", "stop a", "finish b", "stop b", "finish c", "stop c"]
    assert log[18:] == ["stop a", "stop b", "stop c"]


def test_measurements_are_in_the_order_of_the_arms() -> None:
    log: list[str] = []
    first, second = measure(log, FakeArm("a", log), FakeArm("b", log), rounds=2)
    assert (first.arm.label, second.arm.label) == ("a", "b")
    assert second == ArmMeasurement(
        arm=make_arm("b"), counts=ArmCounts(parameters=7), rounds=[{"step": [1.0]}, {"step": [2.0]}],
        summary=ArmSummary(finite=True),
    )  # fmt: skip
    assert first.summary.device_bandwidth == 1e9  # once is enough


def test_progress_is_called_before_each_event() -> None:
    log: list[str] = []
    runner.run_arms(
        [FakeArm("a", log), FakeArm("b", log)],
        2,
        progress=lambda *event: log.append(f"progress {event}"),
        save=ignore_records,
    )
    for number, line in enumerate(log):
        call, label = line.split()[:2]
        if call.startswith(("start", "round", "finish")):
            event = call.rstrip("12")
            assert log[number - 1].startswith(f"progress ('{event}', '{label}', "), line
    assert [line for line in log if "'round'" in line] == [
        "progress ('round', 'a', 1)", "progress ('round', 'b', 1)",
        "progress ('round', 'b', 2)", "progress ('round', 'a', 2)",
    ]  # fmt: skip


@pytest.mark.parametrize(("where", "rounds"), [("start", 0), ("round1", 0), ("round3", 2), ("finish", 3)])
def test_failed_arm_keeps_its_rounds_and_others_continue(where: str, rounds: int) -> None:
    log: list[str] = []
    failure = ArmFailure(status="error", error="broken", peak_memory_bytes=PeakMemory(process=5))
    errors: dict[str, BaseException] = {where: ArmFailedError(failure)}
    records = measure(log, FakeArm("a", log), FakeArm("b", log, errors), FakeArm("c", log))
    assert summarize(records) == [("a", 3, True), ("b", rounds, False), ("c", 3, True)]
    assert [record.failure for record in records] == [None, failure, None]
    # It is stopped at once, so that a hanging arm does not slow down the others, and not called again.
    at = log.index(f"{where} b")
    assert log[at + 1] == "stop b"
    assert {line for line in log[at + 1 :] if line.endswith(" b")} == {"stop b"}


def test_all_arms_fail() -> None:
    log: list[str] = []
    fakes = [FakeArm(label, log, {"start": BROKEN}) for label in "ab"]
    records = measure(log, *fakes)
    assert [r.failure and r.failure.status for r in records] == ["error", "error"]
    assert set(log) == {"start a", "stop a", "start b", "stop b"}


def test_unsupported_arm_is_never_started() -> None:
    log: list[str] = []
    records = measure(log, FakeArm("a", log, unsupported="needs CUDA"), FakeArm("b", log))
    assert set(log[: log.index("stop a")]).isdisjoint({"start a", "round1 a"})
    assert {line for line in log if line.endswith(" a")} == {"stop a"}
    assert records[0].failure == ArmFailure(status="unsupported", error="needs CUDA", code=ErrorCode.UNSUPPORTED)
    assert summarize(records) == [("a", 0, False), ("b", 3, True)]


def test_save_is_called_after_each_round_and_at_the_end() -> None:
    log: list[str] = []
    saved: list[list[tuple[str, int, bool]]] = []

    def save(records: Sequence[ArmMeasurement]) -> None:
        saved.append(summarize(records))
        log.append("save")

    measure(log, FakeArm("a", log), FakeArm("b", log, {"round2": BROKEN}), save=save)
    assert saved == [
        [("a", 1, False), ("b", 1, False)],
        [("a", 2, False), ("b", 1, False)],
        [("a", 3, False), ("b", 1, False)],
        [("a", 3, True), ("b", 1, False)],
    ]
    assert [log[n - 1] for n, line in enumerate(log) if line == "save"][:1] == ["round1 b"]
    assert log[-1] == "save"


@pytest.mark.parametrize("where", ["start", "round1", "round2", "round3", "finish"])
@pytest.mark.parametrize("label", ["a", "b", "c"])
def test_interrupt_saves_and_stops_all_arms(where: str, label: str) -> None:
    log: list[str] = []
    saved: list[list[tuple[str, int, bool]]] = []
    fakes = [FakeArm(name, log, {where: KeyboardInterrupt()} if name == label else None) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        measure(log, *fakes, save=lambda records: saved.append(summarize(records)))
    at = log.index(f"{where} {label}")
    assert log[at + 1 :] == ["stop a", "stop b", "stop c"]
    expected = [
        (name, sum(f"round{n} {name}" in log[:at] for n in (1, 2, 3)), f"finish {name}" in log[:at]) for name in "abc"
    ]
    assert saved[-1] == expected


def test_arms_are_stopped_if_saving_fails() -> None:
    log: list[str] = []

    def save(records: Sequence[ArmMeasurement]) -> None:
        raise InputError("the disk is full", code=ErrorCode.INVALID_VALUE)

    with pytest.raises(InputError):
        measure(log, FakeArm("a", log), FakeArm("b", log), save=save)
    assert log[-2:] == ["stop a", "stop b"]


def test_invalid_workload_ends_the_run_without_saving() -> None:
    log: list[str] = []
    saved: list[object] = []
    error = InputError("no module", code=ErrorCode.INVALID_WORKLOAD)
    with pytest.raises(InputError) as caught:
        measure(log, FakeArm("a", log, {"start": error}), FakeArm("b", log), save=saved.append)
    assert caught.value is error
    assert log == ["start a", "stop a", "stop b"]
    assert not saved


def test_rounds_are_added_until_decided() -> None:
    log: list[str] = []
    numbers: list[int] = []

    def is_decided(records: Sequence[ArmMeasurement]) -> bool:
        numbers.append(len(records[0].rounds))
        return numbers[-1] >= 5

    arms = [FakeArm("a", log), FakeArm("b", log)]
    records = runner.run_arms(arms, 2, progress=ignore_event, save=ignore_records, is_decided=is_decided)
    assert numbers == [2, 3, 4, 5]
    assert summarize(records) == [("a", 5, True), ("b", 5, True)]


def test_no_rounds_are_added_after_all_arms_have_failed() -> None:
    log: list[str] = []
    arms = [FakeArm(label, log, {"round1": BROKEN}) for label in "ab"]
    runner.run_arms(arms, 2, progress=ignore_event, save=ignore_records, is_decided=lambda _: False)
    assert log.count("round1 a") == 1


# -- arms that do not fit into memory together ---------------------------------------------------------------------


class CrowdedArm(FakeArm):
    """Arm that needs a share of a memory that all arms have together."""

    def __init__(self, label: str, log: list[str], memory: dict[str, int], need: int, **changes: Any) -> None:
        super().__init__(label, log, **changes)
        self._memory, self._need = memory, need

    def start(self) -> ArmCounts:
        self._rounds = 0
        super().start()
        if sum(self._memory.values()) + self._need > 10:
            raise OOM
        self._memory[self.arm.label] = self._need
        return ArmCounts(parameters=7)

    def stop(self) -> None:
        super().stop()
        self._memory.pop(self.arm.label, None)


def measure_crowded(*needs: int) -> tuple[list[str], list[ArmMeasurement]]:
    """Measure candidates with these needs of ten, and a control that needs four."""
    log: list[str] = []
    memory: dict[str, int] = {}
    arms = [CrowdedArm(label, log, memory, need) for label, need in zip("ab", needs, strict=False)]
    records = measure(log, *arms, CrowdedArm("c", log, memory, 4, role="control"), rounds=2)
    return log, records


def test_arms_that_fit_only_alone_are_measured_one_by_one_between_two_controls() -> None:
    log, records = measure_crowded(7, 8)
    again = log[len(log) - 1 - log[::-1].index("start a") - 5 :]  # from the first control on
    calls = [line for line in again if not line.startswith("stop")]
    assert calls == [f"{call} {arm}" for arm in "cabc" for call in ("start", "round1", "round2", "finish")]
    assert [(r.failure, r.interleaved, len(r.rounds)) for r in records] == [(None, False, 2)] * 3
    assert records[2].rounds == [{"step": [1.0, 1.0]}, {"step": [2.0, 2.0]}]  # before and after
    assert records[0].rounds == [{"step": [1.0]}, {"step": [2.0]}]


def test_arm_that_does_not_fit_alone_is_out_of_memory() -> None:
    _, records = measure_crowded(11, 3)
    assert [r.failure and r.failure.status for r in records] == ["oom", None, None]
    assert [len(r.rounds) for r in records] == [0, 2, 2]


def test_arms_that_fit_together_are_interleaved() -> None:
    log, records = measure_crowded(3, 3)
    assert all(r.interleaved for r in records)
    assert log.count("start a") == 1


def test_only_arm_that_runs_out_of_memory_is_not_measured_again() -> None:
    log: list[str] = []
    records = measure(log, CrowdedArm("a", log, {}, 11), FakeArm("b", log, unsupported="no GPU"))
    assert log.count("start a") == 1
    assert [r.failure and r.failure.status for r in records] == ["oom", "unsupported"]


@pytest.mark.parametrize(("free", "is_interleaved"), [(50, False), (150, True)])
def test_arms_are_measured_apart_if_managed_memory_may_be_paged(free: int, is_interleaved: bool) -> None:
    log: list[str] = []
    fakes = [FakeArm(label, log) for label in "ab"]
    for fake in fakes:
        fake.counts = ArmCounts(parameters=7, paged_bytes=60, free_bytes=free)
    assert [r.interleaved for r in measure(log, *fakes)] == [is_interleaved] * 2
