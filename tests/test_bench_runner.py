"""The order of a measurement, exactly: arms that are no processes, and no clock."""

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

BROKEN = ArmFailedError(ArmFailure(status="error", error="broken"))


def arm(label: str, **changes: Any) -> Arm:
    return replace(Arm(
        optimizer=label, label=label, role="candidate", path="a.B", package=None, variant=None, kwargs={},
        decay_argument=None,
    ), **changes)  # fmt: skip


class Fake:
    """An arm that answers at once, says in a shared log what it was asked, and fails where it is told to."""

    def __init__(
        self, label: str, log: list[str], fails: dict[str, BaseException] | None = None, **changes: Any
    ) -> None:
        self.arm = arm(label, **changes)
        self._log = log
        self._fails = fails or {}
        self._rounds = 0

    def _do(self, what: str) -> None:
        self._log.append(f"{what} {self.arm.label}")
        if what in self._fails:
            raise self._fails[what]

    def start(self) -> ArmCounts:
        self._do("start")
        return ArmCounts(parameters=7)

    def measure_round(self) -> RoundSamples:
        self._rounds += 1
        self._do(f"round{self._rounds}")
        return RoundSamples({"step": [float(self._rounds)]})

    def finish(self) -> ArmSummary:
        self._do("finish")
        return ArmSummary(finite=True)

    def stop(self) -> None:
        self._log.append(f"stop {self.arm.label}")


def kept(records: Sequence[ArmMeasurement]) -> list[tuple[str, int, bool]]:
    """Return each arm's label, how many rounds it has, and whether it was finished."""
    return [(r.arm.label, len(r.rounds), r.summary != ArmSummary()) for r in records]


def silent(what: str, label: str, number: int) -> None:
    pass


def nothing(records: Sequence[ArmMeasurement]) -> None:
    pass


def measured(
    log: list[str], *arms: Fake, rounds: int = 3, save: Callable[[Sequence[ArmMeasurement]], None] = nothing
) -> list[ArmMeasurement]:
    return runner.run_arms(arms, rounds, progress=silent, save=save)


def test_rounds_alternate_their_order() -> None:
    log: list[str] = []
    measured(log, Fake("a", log), Fake("b", log), Fake("c", log))
    assert log[:12] == [
        "start a", "start b", "start c",
        "round1 a", "round1 b", "round1 c",
        "round2 c", "round2 b", "round2 a",
        "round3 a", "round3 b", "round3 c",
    ]  # fmt: skip
    # Each is ended before the next is finished: what one frees at its end is not in the next one's figures.
    assert log[12:18] == ["finish a", "stop a", "finish b", "stop b", "finish c", "stop c"]
    assert log[18:] == ["stop a", "stop b", "stop c"]


def test_a_record_holds_what_the_arm_gave_in_the_order_of_the_arms() -> None:
    log: list[str] = []
    first, second = measured(log, Fake("a", log), Fake("b", log), rounds=2)
    assert (first.arm.label, second.arm.label) == ("a", "b")
    assert second == ArmMeasurement(
        arm=arm("b"), counts=ArmCounts(parameters=7), rounds=[{"step": [1.0]}, {"step": [2.0]}],
        summary=ArmSummary(finite=True),
    )  # fmt: skip


def test_progress_is_told_before_each_thing_happens() -> None:
    log: list[str] = []
    runner.run_arms(
        [Fake("a", log), Fake("b", log)], 2, progress=lambda *told: log.append(f"told {told}"), save=nothing
    )  # fmt: skip
    for number, line in enumerate(log):
        what, label = line.split()[:2]
        if what.startswith(("start", "round", "finish")):
            word = what.rstrip("12")
            assert log[number - 1].startswith(f"told ('{word}', '{label}', "), line
    assert [line for line in log if "'round'" in line] == [
        "told ('round', 'a', 1)", "told ('round', 'b', 1)", "told ('round', 'b', 2)", "told ('round', 'a', 2)",
    ]  # fmt: skip


@pytest.mark.parametrize(("where", "rounds"), [("start", 0), ("round1", 0), ("round3", 2), ("finish", 3)])
def test_a_failed_arm_keeps_what_it_had_and_the_others_go_on(where: str, rounds: int) -> None:
    log: list[str] = []
    failure = ArmFailure(status="oom", error="no room", peak_memory_bytes=PeakMemory(process=5))
    fails: dict[str, BaseException] = {where: ArmFailedError(failure)}
    records = measured(log, Fake("a", log), Fake("b", log, fails), Fake("c", log))
    assert kept(records) == [("a", 3, True), ("b", rounds, False), ("c", 3, True)]
    assert [record.failure for record in records] == [None, failure, None]
    # It is ended at once, so that one that hangs does not slow the others down, and not asked again.
    at = log.index(f"{where} b")
    assert log[at + 1] == "stop b"
    assert {line for line in log[at + 1 :] if line.endswith(" b")} == {"stop b"}


def test_when_all_fail_all_are_stopped_and_nothing_else_is_asked() -> None:
    log: list[str] = []
    fakes = [Fake(label, log, {"start": BROKEN}) for label in "ab"]
    records = measured(log, *fakes)
    assert [r.failure and r.failure.status for r in records] == ["error", "error"]
    assert set(log) == {"start a", "stop a", "start b", "stop b"}


def test_an_unsupported_arm_is_never_started() -> None:
    log: list[str] = []
    records = measured(log, Fake("a", log, unsupported="needs CUDA"), Fake("b", log))
    assert set(log[: log.index("stop a")]).isdisjoint({"start a", "round1 a"})
    assert {line for line in log if line.endswith(" a")} == {"stop a"}
    assert records[0].failure == ArmFailure(status="unsupported", error="needs CUDA", code=ErrorCode.UNSUPPORTED)
    assert kept(records) == [("a", 0, False), ("b", 3, True)]


def test_everything_so_far_is_saved_after_each_round_and_at_the_end() -> None:
    log: list[str] = []
    saved: list[list[tuple[str, int, bool]]] = []

    def save(records: Sequence[ArmMeasurement]) -> None:
        saved.append(kept(records))
        log.append("save")

    measured(log, Fake("a", log), Fake("b", log, {"round2": BROKEN}), save=save)
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
def test_an_interruption_saves_what_is_there_and_leaves_no_arm_running(where: str, label: str) -> None:
    log: list[str] = []
    saved: list[list[tuple[str, int, bool]]] = []
    fakes = [Fake(name, log, {where: KeyboardInterrupt()} if name == label else None) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        measured(log, *fakes, save=lambda records: saved.append(kept(records)))
    at = log.index(f"{where} {label}")
    assert log[at + 1 :] == ["stop a", "stop b", "stop c"]
    done = [
        (name, sum(f"round{n} {name}" in log[:at] for n in (1, 2, 3)), f"finish {name}" in log[:at]) for name in "abc"
    ]
    assert saved[-1] == done


def test_the_arms_are_stopped_even_where_saving_fails() -> None:
    log: list[str] = []

    def save(records: Sequence[ArmMeasurement]) -> None:
        raise InputError("the disk is full")

    with pytest.raises(InputError):
        measured(log, Fake("a", log), Fake("b", log), save=save)
    assert log[-2:] == ["stop a", "stop b"]


def test_a_wrong_workload_ends_the_run_at_once_and_writes_nothing() -> None:
    log: list[str] = []
    saved: list[object] = []
    with pytest.raises(InputError, match="no module"):
        measured(log, Fake("a", log, {"start": InputError("no module")}), Fake("b", log), save=saved.append)
    assert log == ["start a", "stop a", "stop b"]
    assert not saved
