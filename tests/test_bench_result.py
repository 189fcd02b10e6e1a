"""From records to the JSON of the contract, on records written by hand."""

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
from optadvise.core.json_text import encode_json
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


def rounds(step: float, optimizer: float, count: int = 7) -> list[dict[str, list[float]]]:
    """Return rounds of five samples about a time, the machine slower in every other round."""
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


def record(
    label: str, *, role: Role = "candidate", step: float = 0.02, optimizer: float = 0.004, **counts: Any
) -> ArmMeasurement:
    return ArmMeasurement(
        arm=make_arm(label, role=role),
        counts=replace(COUNTS, **counts),
        rounds=rounds(step, optimizer),
        summary=SUMMARY,
    )


def control(**counts: Any) -> ArmMeasurement:
    return record("base", role="control", step=0.01, optimizer=0.002, **counts)


def failed(label: str, status: Status = "oom", peak: PeakMemory | None = None) -> ArmMeasurement:
    return ArmMeasurement(
        arm=make_arm(label), failure=ArmFailure(status=status, error="no room", peak_memory_bytes=peak)
    )


def made(
    *records: ArmMeasurement, requirements: tuple[str, ...] = (), machine: Machine = MACHINE, complete: bool = True
) -> dict[str, Any]:
    parsed = [parse_requirement(text) for text in requirements]
    found = results.make_result(Spec(), records, parsed, machine=machine, complete=complete)
    data: dict[str, Any] = json.loads(encode_json(found))
    return data


def verdicts(found: dict[str, Any]) -> list[str]:
    return [r["verdict"] for r in found["requirements"]]


def test_medians_intervals_and_all_samples() -> None:
    (found,) = made(record("a"))["arms"]
    timed = found["step_seconds"]
    assert len(timed["samples"]) == 35
    assert timed["median"] == sorted(timed["samples"])[17]
    assert timed["ci95"][0] <= timed["median"] <= timed["ci95"][1]
    assert found["forward_seconds"]["median"] == pytest.approx(0.3 * timed["median"])
    assert found["backward_seconds"]["median"] == pytest.approx(0.5 * timed["median"])
    assert found["optimizer_share"] == pytest.approx(0.2)
    assert found["first_step_seconds"] == 0.5
    assert found["loss"] == {"first": 5.0, "last": 3.0, "finite": True}


def test_ratios_are_against_the_control_and_drift_that_both_share_cancels() -> None:
    found = made(record("a", state_bytes=2000, state_bytes_per_parameter=2.0), control())
    ratios = {r["metric"]: r for r in found["ratios"]}
    assert set(ratios) == {"step_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds", "throughput",
                           "state_bytes", "state_bytes_per_parameter", "peak_memory"}  # fmt: skip
    assert {(r["label"], r["versus"]) for r in found["ratios"]} == {("a", "base")}
    assert ratios["optimizer_seconds"]["ratio"] == pytest.approx(2)
    assert ratios["optimizer_seconds"]["ci95"] == pytest.approx([2, 2])  # though the rounds differ by half
    assert ratios["throughput"]["ratio"] == pytest.approx(0.5)
    assert ratios["throughput"]["ci95"] == pytest.approx([0.5, 0.5])
    assert ratios["state_bytes"] == {**ratios["state_bytes"], "ratio": 0.25, "ci95": None}


def broken(whole: ArmMeasurement) -> ArmMeasurement:
    """Return an arm that was killed in its fourth round."""
    failure = ArmFailure(status="error", error="killed")
    return replace(whole, rounds=whole.rounds[:3], summary=ArmSummary(), failure=failure)


def test_a_ratio_pairs_the_rounds_that_both_have() -> None:
    found = made(record("a"), broken(control()))
    assert next(r for r in found["ratios"] if r["metric"] == "step_seconds")["ratio"] == pytest.approx(2)


def test_an_arm_that_broke_keeps_its_samples_and_has_no_ratio() -> None:
    found = made(broken(record("a")), control())
    (lost, _) = found["arms"]
    assert (lost["status"], len(lost["step_seconds"]["samples"])) == ("error", 15)
    assert found["ratios"] == []


def test_without_a_control_there_are_no_ratios() -> None:
    assert made(record("a"), record("b"))["ratios"] == []
    assert made(record("a"), replace(failed("base"), arm=make_arm("base", role="control")))["ratios"] == []


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
    found = made(record("a"), control(), requirements=(text,))
    (judged,) = found["requirements"]
    assert (judged["text"], judged["optimizer"], judged["verdict"]) == (text, "a", expected)
    assert judged["measured"] is not None
    assert found["verdict"] == expected


def test_a_multiple_of_the_control_is_inconclusive_where_there_is_none() -> None:
    assert verdicts(made(record("a"), requirements=("state_bytes <= 1.5x",))) == ["inconclusive"]


def test_a_failed_arm_fails_its_requirements_and_the_worst_verdict_counts() -> None:
    found = made(record("a"), failed("b"), control(), requirements=("state_bytes <= 1GB", "optimizer_seconds <= 5ms"))
    assert verdicts(found) == ["pass", "fail", "inconclusive", "fail"]
    assert found["verdict"] == "fail"
    assert [r["measured"] for r in found["requirements"] if r["label"] == "b"] == [None, None]
    found = made(record("a"), failed("b", "unsupported"), requirements=("state_bytes <= 1GB",))
    assert verdicts(found) == ["pass", "inconclusive"]  # what cannot run here leaves the question open
    assert worst_verdict(["pass", "inconclusive"]) == "inconclusive"
    assert worst_verdict([]) is None


def test_what_was_interrupted_has_no_verdict() -> None:
    found = made(record("a"), requirements=("state_bytes <= 1",), complete=False)
    assert (found["complete"], found["verdict"]) == (False, None)
    assert verdicts(found) == ["fail"]


def test_throughput_and_bandwidth() -> None:
    (found,) = made(record("a"))["arms"]
    step, taken = found["step_seconds"], found["optimizer_seconds"]
    assert found["throughput"]["value"] == pytest.approx(8 / step["median"])
    assert found["throughput"]["ci95"] == pytest.approx([8 / step["ci95"][1], 8 / step["ci95"][0]])
    assert found["throughput"]["unit"] == "samples/s"
    moved = found["bandwidth"]
    assert moved["achieved"] == pytest.approx(28_000 / taken["median"])
    assert (moved["bytes_per_step"], moved["device"]) == (28_000, 1e6)
    assert moved["fraction"] == pytest.approx(moved["achieved"] / 1e6)
    assert moved["bound"] == "in cache"  # faster than a copy through memory
    (slow,) = made(record("a", tensors=10_000, bytes_per_step=2000))["arms"]
    assert slow["bandwidth"]["bound"] == "launch-bound: 10000 tensors"


def test_the_bandwidth_of_the_device_is_the_best_that_any_arm_saw() -> None:
    slow = replace(record("a"), summary=replace(SUMMARY, device_bandwidth=1e5))
    assert {a["bandwidth"]["device"] for a in made(slow, control())["arms"]} == {1e6}


def test_what_was_not_measured_is_null_and_never_zero() -> None:
    found = made(failed("a"), control(), requirements=("state_bytes <= 1",))
    lost = found["arms"][0]
    assert (lost["status"], lost["error"]) == ("oom", "no room")
    for name in ("parameters", "parameter_bytes", "gradient_bytes", "state_bytes", "state_bytes_per_parameter",
                 "tensors", "transient_bytes", "first_step_seconds", "optimizer_share"):  # fmt: skip
        assert lost[name] is None, name
    for part in PARTS:
        assert lost[f"{part}_seconds"] == {"median": None, "ci95": None, "samples": []}
    assert lost["peak_memory_bytes"] == {"allocated": None, "reserved": None, "process": None}
    assert lost["throughput"]["value"] is None
    assert {lost["bandwidth"][key] for key in ("bytes_per_step", "achieved", "fraction", "bound")} == {None}
    assert lost["loss"] == {"first": None, "last": None, "finite": None}


def test_an_arm_that_ran_out_of_memory_says_its_peak() -> None:
    (found,) = made(failed("a", peak=PeakMemory(allocated=3, reserved=4, process=5)))["arms"]
    assert found["peak_memory_bytes"] == {"allocated": 3, "reserved": 4, "process": 5}


def test_few_samples_have_no_interval_and_decide_nothing() -> None:
    few = replace(record("a"), rounds=[{part: [0.01, 0.02] for part in PARTS}])
    base = replace(control(), rounds=[{part: [0.01, 0.02] for part in PARTS}])
    found = made(few, base, requirements=("optimizer_seconds <= 1s", "step_seconds <= 9x", "state_bytes <= 8000"))
    assert found["arms"][0]["step_seconds"] == {"median": 0.015, "ci95": None, "samples": [0.01, 0.02]}
    assert verdicts(found) == ["inconclusive", "inconclusive", "pass"]


def test_steps_without_a_model_have_no_forward_no_samples_and_no_loss() -> None:
    parts = [{"step": r["optimizer"], "optimizer": r["optimizer"]} for r in rounds(0.02, 0.004)]
    bare = replace(record("a", samples_per_step=None, unit=None), rounds=parts, summary=replace(SUMMARY, losses=[]))
    (found,) = made(bare)["arms"]
    assert found["forward_seconds"]["median"] is None
    assert found["throughput"] == {"value": None, "unit": "samples/s", "ci95": None}
    assert found["loss"] == {"first": None, "last": None, "finite": True}


def test_losses_that_did_not_stay_finite() -> None:
    (found,) = made(replace(record("a"), summary=replace(SUMMARY, losses=[5.0, None], finite=False)))["arms"]
    assert found["loss"] == {"first": 5.0, "last": None, "finite": False}


def test_the_environment_is_the_parents_and_the_workers() -> None:
    other = record("a", environment=WorkerEnvironment(threads=2, packages={"other": "3"}))
    found = made(other, control(), failed("c"))["environment"]
    assert found["python"] == MACHINE.python
    assert (found["threads"], found["packages"]) == (2, {"other": "3", "torch": "2"})
