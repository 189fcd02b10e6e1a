"""JSON of benchmark results, from records written by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from optadvise.benchmark import results
from optadvise.benchmark.measurement import ArmCounts, ArmFailure, ArmMeasurement, ArmSummary, WorkerEnvironment
from optadvise.benchmark.records import PARTS, Machine, PeakMemory, Status
from optadvise.benchmark.requirements import parse_requirement, worst_verdict
from optadvise.benchmark.spec import Role, Spec
from optadvise.core.error_codes import ErrorCode
from optadvise.core.json_text import encode_json
from optadvise.render.benchmark import describe_conditions, list_details, list_settings
from tests.results import MACHINE
from tests.test_bench_runner import make_arm

COUNTS = ArmCounts(
    parameters=1000, parameter_bytes=4000, gradient_bytes=4000, tensors=2, state_bytes=8000,
    state_bytes_per_parameter=8.0, bytes_per_step=28_000, samples_per_step=8, unit="samples/s",
    first_step_seconds=0.5, environment=WorkerEnvironment(threads=2, packages={"torch": "2"}),
)  # fmt: skip
SUMMARY = ArmSummary(
    peak_memory_bytes=PeakMemory(process=2**20), device_bandwidth=1e6, losses=[5.0, 4.0, 3.0], finite=True
)


def make_rounds(step: float, optimizer: float, count: int = 7) -> list[dict[str, list[float]]]:
    """Return rounds of five samples around the given times; every other round is 1.5 times slower."""
    drift = [1.0 if n % 2 else 1.5 for n in range(count)]
    spread = (0.98, 0.99, 1.0, 1.01, 1.02)
    return [
        {
            "step": [step * d * s for s in spread],
            "forward": [0.3 * step * d * s for s in spread],
            "backward": [0.5 * step * d * s for s in spread],
            "optimizer": [optimizer * d * s for s in spread],
        }
        for d in drift
    ]


def make_measurement(
    label: str, *, role: Role = "candidate", step: float = 0.02, optimizer: float = 0.004, **counts: Any
) -> ArmMeasurement:
    return ArmMeasurement(
        arm=make_arm(label, role=role),
        counts=replace(COUNTS, **counts),
        rounds=make_rounds(step, optimizer),
        summary=SUMMARY,
    )


def make_control(**counts: Any) -> ArmMeasurement:
    return make_measurement("base", role="control", step=0.01, optimizer=0.002, **counts)


def make_failure(label: str, status: Status = "oom", peak: PeakMemory | None = None) -> ArmMeasurement:
    return ArmMeasurement(
        arm=make_arm(label),
        failure=ArmFailure(status=status, error="no room", code=ErrorCode.OUT_OF_MEMORY, peak_memory_bytes=peak),
    )


def make_json(
    *records: ArmMeasurement, requirements: tuple[str, ...] = (), machine: Machine = MACHINE, complete: bool = True
) -> dict[str, Any]:
    parsed = [parse_requirement(text) for text in requirements]
    result = results.make_result(Spec(), records, parsed, machine=machine, complete=complete)
    data: dict[str, Any] = json.loads(encode_json(result))
    return data


def list_verdicts(result: dict[str, Any]) -> list[str]:
    return [r["verdict"] for r in result["requirements"]]


def test_timings_have_medians_intervals_and_samples() -> None:
    (result,) = make_json(make_measurement("a"))["arms"]
    step = result["step_seconds"]
    assert len(step["samples"]) == 35
    assert step["median"] == sorted(step["samples"])[17]
    assert step["ci95"][0] <= step["median"] <= step["ci95"][1]
    assert result["forward_seconds"]["median"] == pytest.approx(0.3 * step["median"])
    assert result["backward_seconds"]["median"] == pytest.approx(0.5 * step["median"])
    assert result["optimizer_share"] == pytest.approx(0.2)
    assert result["first_step_seconds"] == 0.5
    assert result["loss"] == {"first": 5.0, "last": 3.0, "finite": True}


def test_common_drift_cancels_in_ratios() -> None:
    result = make_json(make_measurement("a", state_bytes=2000, state_bytes_per_parameter=2.0), make_control())
    ratios = {r["metric"]: r for r in result["ratios"]}
    assert set(ratios) == {"step_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds", "throughput",
                           "state_bytes", "state_bytes_per_parameter", "peak_memory"}  # fmt: skip
    assert {(r["label"], r["versus"]) for r in result["ratios"]} == {("a", "base")}
    assert ratios["optimizer_seconds"]["ratio"] == pytest.approx(2)
    assert ratios["optimizer_seconds"]["ci95"] == pytest.approx([2, 2])  # although the rounds differ by half
    assert ratios["throughput"]["ratio"] == pytest.approx(0.5)
    assert ratios["throughput"]["ci95"] == pytest.approx([0.5, 0.5])
    assert ratios["state_bytes"] == {**ratios["state_bytes"], "ratio": 0.25, "ci95": None}


def interrupt_arm(measurement: ArmMeasurement) -> ArmMeasurement:
    """Return the measurement of an arm that is killed in its fourth round."""
    failure = ArmFailure(status="error", error="killed", code=ErrorCode.WORKER_FAILED)
    return replace(measurement, rounds=measurement.rounds[:3], summary=ArmSummary(), failure=failure)


def test_ratio_uses_the_rounds_of_both_arms() -> None:
    result = make_json(make_measurement("a"), interrupt_arm(make_control()))
    assert next(r for r in result["ratios"] if r["metric"] == "step_seconds")["ratio"] == pytest.approx(2)


def test_failed_arm_keeps_its_samples_without_ratios() -> None:
    result = make_json(interrupt_arm(make_measurement("a")), make_control())
    (killed, _) = result["arms"]
    assert (killed["status"], killed["error_code"]) == ("error", "worker-failed")
    assert len(killed["step_seconds"]["samples"]) == 15
    assert result["ratios"] == []


def test_no_ratios_without_control() -> None:
    assert make_json(make_measurement("a"), make_measurement("b"))["ratios"] == []
    assert (
        make_json(make_measurement("a"), replace(make_failure("base"), arm=make_arm("base", role="control")))["ratios"]
        == []
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state_bytes_per_parameter <= 8", "pass"),
        ("state_bytes_per_parameter < 8", "fail"),
        ("state_bytes <= 1.0x", "pass"),
        ("peak_memory <= 1MB", "pass"),
        ("peak_memory < 1MB", "fail"),
        ("optimizer_seconds <= 2.5x", "pass"),
        ("optimizer_seconds <= 1.5x", "fail"),
        ("optimizer_seconds <= 10ms", "pass"),
        ("optimizer_seconds <= 1ms", "fail"),
        ("optimizer_seconds <= 5ms", "inconclusive"),  # rounds take 4 ms and 6 ms in turn
        ("throughput >= 1", "pass"),
        ("throughput >= 320", "inconclusive"),
        ("throughput >= 1e6", "fail"),
        ("bandwidth_fraction >= 1", "pass"),
        ("loss_last <= 3", "pass"),
        ("loss_last < 3", "fail"),
        ("first_step_seconds <= 1s", "pass"),
    ],
)
def test_requirements(text: str, expected: str) -> None:
    result = make_json(make_measurement("a"), make_control(), requirements=(text,))
    (judged,) = result["requirements"]
    assert (judged["text"], judged["optimizer"], judged["verdict"]) == (text, "a", expected)
    assert judged["measured"] is not None
    assert result["verdict"] == expected


def test_relative_requirement_without_control_is_inconclusive() -> None:
    assert list_verdicts(make_json(make_measurement("a"), requirements=("state_bytes <= 1.5x",))) == ["inconclusive"]


def test_failed_arm_fails_requirements_and_the_worst_verdict_counts() -> None:
    result = make_json(
        make_measurement("a"),
        make_failure("b"),
        make_control(),
        requirements=("state_bytes <= 1GB", "optimizer_seconds <= 5ms"),
    )
    assert list_verdicts(result) == ["pass", "fail", "inconclusive", "fail"]
    assert result["verdict"] == "fail"
    assert [r["measured"] for r in result["requirements"] if r["label"] == "b"] == [None, None]
    result = make_json(make_measurement("a"), make_failure("b", "unsupported"), requirements=("state_bytes <= 1GB",))
    assert list_verdicts(result) == ["pass", "inconclusive"]  # an unsupported arm decides nothing
    assert worst_verdict(["pass", "inconclusive"]) == "inconclusive"
    assert worst_verdict([]) is None


def test_interrupted_result_has_no_verdict() -> None:
    result = make_json(make_measurement("a"), requirements=("state_bytes <= 1",), complete=False)
    assert (result["complete"], result["verdict"]) == (False, None)
    assert list_verdicts(result) == ["fail"]


def test_open_requirement_states_the_rounds_that_decide() -> None:
    arm = make_measurement("a")  # rounds take 4 ms and 6 ms in turn
    result = results.make_result(Spec(), [arm], [parse_requirement("optimizer_seconds <= 5ms")], machine=MACHINE)
    (open_requirement,) = result.requirements
    assert open_requirement.verdict == "inconclusive"
    assert (open_requirement.rounds_needed or 0) > 7


def test_throughput_and_bandwidth() -> None:
    (result,) = make_json(make_measurement("a"))["arms"]
    step, optimizer_step = result["step_seconds"], result["optimizer_seconds"]
    assert result["throughput"]["value"] == pytest.approx(8 / step["median"])
    assert result["throughput"]["ci95"] == pytest.approx([8 / step["ci95"][1], 8 / step["ci95"][0]])
    assert result["throughput"]["unit"] == "samples/s"
    bandwidth = result["bandwidth"]
    assert bandwidth["achieved"] == pytest.approx(28_000 / optimizer_step["median"])
    assert (bandwidth["bytes_per_step"], bandwidth["device"]) == (28_000, 1e6)
    assert bandwidth["fraction"] == pytest.approx(bandwidth["achieved"] / 1e6)
    assert bandwidth["bound"] == "in cache"  # faster than a copy through memory


@pytest.mark.parametrize(("overhead", "bound"), [(0.003, "launch-bound: 2 tensors"), (0.001, None), (None, None)])
def test_overhead_of_half_the_step_is_launch_bound(overhead: float | None, bound: str | None) -> None:
    slow = make_measurement("a", bytes_per_step=2000)
    (result,) = make_json(replace(slow, summary=replace(SUMMARY, overhead_seconds=overhead)))["arms"]
    assert (result["bandwidth"]["bound"], result["overhead_seconds"]) == (bound, overhead)


def test_paged_state_counts_as_peak_memory() -> None:
    paged = make_measurement("a", paged_bytes=500)
    paged = replace(
        paged,
        arm=replace(paged.arm, paged=True),
        summary=replace(SUMMARY, peak_memory_bytes=PeakMemory(allocated=1000, paged=500)),
    )
    result = make_json(paged, requirements=("peak_memory <= 1400",))
    assert (result["arms"][0]["paged_bytes"], result["requirements"][0]["measured"]) == (500, 1500)
    unpaged = make_json(make_measurement("a", paged_bytes=0))
    assert unpaged["arms"][0]["paged_bytes"] is None


def test_arms_measured_apart_are_not_interleaved() -> None:
    assert make_json(make_measurement("a"), make_control())["interleaved"]
    assert not make_json(replace(make_measurement("a"), interleaved=False), make_control())["interleaved"]


def test_gpu_whose_arms_all_fail_is_not_described_as_the_processor() -> None:
    failed = results.make_result(Spec(device="cuda"), [make_failure("a")], machine=MACHINE)
    assert MACHINE.processor
    assert MACHINE.processor not in describe_conditions(failed)[1]
    assert MACHINE.processor in describe_conditions(replace(failed, spec=Spec()))[1]


def test_rounds_of_arms_measured_apart_are_those_of_a_candidate() -> None:
    candidate, control = (replace(each, interleaved=False) for each in (make_measurement("a"), make_control()))
    for samples, later in zip(control.rounds, make_rounds(0.01, 0.002), strict=True):  # measured before and after
        for part, seconds in later.items():
            samples[part].extend(seconds)
    result = results.make_result(Spec(steps=5), (candidate, control), machine=MACHINE)
    assert dict(list_settings(result))["rounds"] == "7"


@pytest.mark.parametrize(("paged_bytes", "lines"), [(None, 0), (0, 1), (500, 1)])
def test_text_states_whether_state_is_paged(paged_bytes: int | None, lines: int) -> None:
    paged = make_measurement("a", paged_bytes=paged_bytes)
    paged = replace(paged, arm=replace(paged.arm, paged=True))
    (arm,) = results.make_result(Spec(device="cuda"), [paged], machine=MACHINE).arms
    details = [line for line in list_details(arm, Spec(device="cuda")) if "page" in line]
    assert len(details) == lines
    assert ("nothing" in "".join(details)) is (paged_bytes == 0)


def test_device_bandwidth_is_the_maximum_of_all_arms() -> None:
    slow = replace(make_measurement("a"), summary=replace(SUMMARY, device_bandwidth=1e5))
    assert {a["bandwidth"]["device"] for a in make_json(slow, make_control())["arms"]} == {1e6}


def test_unmeasured_figures_are_null() -> None:
    result = make_json(make_failure("a"), make_control(), requirements=("state_bytes <= 1",))
    failed = result["arms"][0]
    assert (failed["status"], failed["error"], failed["error_code"]) == ("oom", "no room", "out-of-memory")
    for name in ("parameters", "parameter_bytes", "gradient_bytes", "state_bytes", "state_bytes_per_parameter",
                 "tensors", "transient_bytes", "first_step_seconds", "optimizer_share"):  # fmt: skip
        assert failed[name] is None, name
    for part in PARTS:
        assert failed[f"{part}_seconds"] == {"median": None, "ci95": None, "samples": []}
    assert failed["peak_memory_bytes"] == {"allocated": None, "reserved": None, "process": None, "paged": None}
    assert failed["throughput"]["value"] is None
    assert {failed["bandwidth"][key] for key in ("bytes_per_step", "achieved", "fraction", "bound")} == {None}
    assert failed["loss"] == {"first": None, "last": None, "finite": None}


def test_out_of_memory_arm_has_its_peak() -> None:
    (result,) = make_json(make_failure("a", peak=PeakMemory(allocated=3, reserved=4, process=5)))["arms"]
    assert result["peak_memory_bytes"] == {"allocated": 3, "reserved": 4, "process": 5, "paged": None}


def test_few_samples_are_inconclusive() -> None:
    few = replace(make_measurement("a"), rounds=[{part: [0.01, 0.02] for part in PARTS}])
    base = replace(make_control(), rounds=[{part: [0.01, 0.02] for part in PARTS}])
    result = make_json(few, base, requirements=("optimizer_seconds <= 1s", "step_seconds <= 9x", "state_bytes <= 8000"))
    assert result["arms"][0]["step_seconds"] == {"median": 0.015, "ci95": None, "samples": [0.01, 0.02]}
    assert list_verdicts(result) == ["inconclusive", "inconclusive", "pass"]


def test_optimizer_only_has_no_forward_throughput_and_loss() -> None:
    parts = [{"step": r["optimizer"], "optimizer": r["optimizer"]} for r in make_rounds(0.02, 0.004)]
    measurement = replace(
        make_measurement("a", samples_per_step=None, unit=None), rounds=parts, summary=replace(SUMMARY, losses=[])
    )
    (result,) = make_json(measurement)["arms"]
    assert result["forward_seconds"]["median"] is None
    assert result["throughput"] == {"value": None, "unit": "samples/s", "ci95": None}
    assert result["loss"] == {"first": None, "last": None, "finite": True}


def test_losses_that_are_not_finite() -> None:
    (result,) = make_json(replace(make_measurement("a"), summary=replace(SUMMARY, losses=[5.0, None], finite=False)))[
        "arms"
    ]
    assert result["loss"] == {"first": 5.0, "last": None, "finite": False}


def test_environment_combines_parent_and_workers() -> None:
    other = make_measurement("a", environment=WorkerEnvironment(threads=2, packages={"other": "3"}))
    result = make_json(other, make_control(), make_failure("c"))["environment"]
    assert result["python"] == MACHINE.python
    assert (result["threads"], result["packages"]) == (2, {"other": "3", "torch": "2"})
