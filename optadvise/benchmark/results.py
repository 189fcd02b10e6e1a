"""From records to the JSON of the contract: medians with intervals, ratios, requirements and a verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import asdict, astuple

from optadvise.benchmark.runner import Record
from optadvise.benchmark.spec import Spec, metric_of
from optadvise.benchmark.statistics import Estimate, Interval, Requirement, judge, median_ci, ratio_ci

SCHEMA_VERSION = 1
PARTS = ("step", "forward", "backward", "optimizer")
# What one tensor costs to launch where nothing is fused: several kernels of a few microseconds each.
_LAUNCH_SECONDS = 5e-6


def make(
    spec: Spec,
    records: Sequence[Record],
    requirements: Sequence[Requirement] = (),
    *,
    environment: Mapping[str, Any] | None = None,
    complete: bool = True,
) -> dict[str, Any]:
    """Return the result of a measurement.

    Args:
        spec: The shared conditions.
        records: What each arm gave.
        requirements: What `--require` asked for.
        environment: What the parent knows of the machine; what the workers know is added.
        complete: Whether it ran to its end.
    """
    arms = [_arm(record, records) for record in records]
    ratios = _ratios(records, arms)
    judged = [_judged(r, arm, ratios) for r in requirements for arm in arms if arm["role"] == "candidate"]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "bench",
        "complete": complete,
        "environment": {**(environment or {}), **_environment(records)},
        "spec": asdict(spec),
        "arms": arms,
        "ratios": ratios,
        "requirements": judged,
        "verdict": verdict([j["verdict"] for j in judged]) if complete else None,
    }


def verdict(verdicts: Iterable[str]) -> str | None:
    """Return the worst of several verdicts, None where there are none."""
    found = set(verdicts)
    return next((v for v in ("fail", "inconclusive", "pass") if v in found), None)


def _environment(records: Sequence[Record]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for record in records:
        known = record.counts.get("environment", {})
        packages = {**merged.get("packages", {}), **known.get("packages", {})}
        merged = {**merged, **known, "packages": packages}
    return merged


def _arm(record: Record, records: Sequence[Record]) -> dict[str, Any]:
    arm, counts, end = record.arm, record.counts, record.end
    estimates = {part: _estimate(record, part) for part in PARTS}
    step = estimates["step"]
    status = record.failure.get("status", "ok")
    losses = list(end.get("losses", ()))
    return {
        "optimizer": arm.optimizer,
        "label": arm.label,
        "role": arm.role,
        "status": status,
        "error": record.failure.get("error"),
        "implementation": {
            "import": arm.path,
            "package": arm.package,
            "variant": arm.variant,
            "kwargs": dict(arm.kwargs),
        },
        "deviates": arm.deviates,
        **{k: counts.get(k) for k in ("parameters", "parameter_bytes", "gradient_bytes", "state_bytes",
                                      "state_bytes_per_parameter", "tensors")},
        "peak_memory_bytes": end.get("peak_memory_bytes") or record.failure.get("peak_memory_bytes")
        or {"allocated": None, "reserved": None, "process": None},
        "transient_bytes": end.get("transient_bytes"),
        **_together(counts, end, step),
        **{f"{part}_seconds": _timed(estimates[part]) for part in PARTS},
        "optimizer_share": _share(estimates["optimizer"], step),
        "first_step_seconds": counts.get("first_step_seconds"),
        "throughput": _throughput(counts, step),
        "bandwidth": _bandwidth(counts, estimates["optimizer"], records),
        "loss": {
            "first": losses[0] if losses else None,
            "last": losses[-1] if losses else None,
            "finite": end.get("finite"),
        },
    }  # fmt: skip


def _together(counts: Mapping[str, Any], end: Mapping[str, Any], step: Estimate | None) -> dict[str, Any]:
    """Return what several ranks add: each by itself, the state of all, and what being several costs and gains.

    The samples of a second are those of all ranks, so their efficiency is what one rank's step by itself takes over
    what it takes among the others.
    """
    ranks = end.get("ranks")
    if ranks is None:
        return {"ranks": None, "total_state_bytes": counts.get("total_state_bytes"), "communication_share": None,
                "scaling_efficiency": None}  # fmt: skip
    alone = end.get("alone_step_seconds")
    spent = max(rank["communication_share"] for rank in ranks)
    return {
        "ranks": ranks,
        "total_state_bytes": counts["total_state_bytes"],
        "communication_share": spent,
        "scaling_efficiency": alone / step.median if alone and step is not None and step.median > 0 else None,
    }


def _estimate(record: Record, part: str) -> Estimate | None:
    samples = [value for samples in record.rounds for value in samples.get(part, ())]
    return median_ci(samples) if samples else None


def _timed(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"median": None, "ci95": None, "samples": []}
    ci = None if estimate.ci95 is None else list(astuple(estimate.ci95))
    return {"median": estimate.median, "ci95": ci, "samples": list(estimate.samples)}


def _share(part: Estimate | None, whole: Estimate | None) -> float | None:
    return part.median / whole.median if part is not None and whole is not None and whole.median > 0 else None


def _throughput(counts: Mapping[str, Any], step: Estimate | None) -> dict[str, Any]:
    samples = counts.get("samples_per_step")
    if samples is None or step is None:
        return {"value": None, "unit": "samples/s", "ci95": None}
    ci = None if step.ci95 is None else [samples / step.ci95.high, samples / step.ci95.low]
    return {"value": samples / step.median, "unit": counts.get("unit", "samples/s"), "ci95": ci}


def _bandwidth(counts: Mapping[str, Any], step: Estimate | None, records: Sequence[Record]) -> dict[str, Any]:
    moved = counts.get("bytes_per_step")
    device = max((r.end["device_bandwidth"] for r in records if r.end.get("device_bandwidth")), default=None)
    achieved = moved / step.median if moved and step is not None and step.median > 0 else None
    fraction = achieved / device if achieved is not None and device else None
    bound = None
    if moved and device and fraction is not None:
        if moved / device < counts["tensors"] * _LAUNCH_SECONDS:
            bound = f"launch-bound: {counts['tensors']} tensors"
        elif fraction > 1:
            bound = "in cache"
    return {"bytes_per_step": moved, "achieved": achieved, "device": device, "fraction": fraction, "bound": bound}


def _ratios(records: Sequence[Record], arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    controls = [(r, a) for r, a in zip(records, arms, strict=True) if a["role"] == "control" and r.rounds]
    if not controls:
        return []
    control, control_arm = controls[0]
    found = []
    for record, arm in zip(records, arms, strict=True):
        if arm["role"] == "control" or arm["status"] != "ok" or not record.rounds:
            continue
        for part in PARTS:
            pair = _paired(record, control, part)
            if pair is not None:
                ratio, interval = pair
                found.append(_ratio(arm, control_arm, f"{part}_seconds", ratio, interval))
                if part == "step" and metric_of(arm, "throughput") is not None:
                    turned = None if interval is None else Interval(1 / interval.high, 1 / interval.low)
                    found.append(_ratio(arm, control_arm, "throughput", 1 / ratio, turned))
        for name in ("state_bytes", "state_bytes_per_parameter", "peak_memory"):
            ours, theirs = metric_of(arm, name), metric_of(control_arm, name)
            if ours is not None and theirs:
                found.append(_ratio(arm, control_arm, name, ours / theirs, None))
    return found


def _ratio(
    arm: Mapping[str, Any], control: Mapping[str, Any], metric: str, ratio: float, interval: Interval | None
) -> dict[str, Any]:
    return {
        "optimizer": arm["optimizer"],
        "label": arm["label"],
        "versus": control["optimizer"],
        "metric": metric,
        "ratio": ratio,
        "ci95": None if interval is None else list(astuple(interval)),
    }


def _paired(record: Record, control: Record, part: str) -> tuple[float, Interval | None] | None:
    count = min(len(record.rounds), len(control.rounds))
    ours = [r.get(part, []) for r in record.rounds[:count]]
    theirs = [r.get(part, []) for r in control.rounds[:count]]
    if not any(a and b for a, b in zip(ours, theirs, strict=True)):
        return None
    try:
        return ratio_ci(ours, theirs)
    except ValueError:  # a part that took no measurable time
        return None


def _judged(requirement: Requirement, arm: Mapping[str, Any], ratios: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    value, interval = _subject(requirement, arm, ratios)
    # An arm that broke fails what was asked of it; one that cannot run here leaves the question open.
    broken = "inconclusive" if arm["status"] == "unsupported" else "fail"
    found = judge(requirement, value, interval) if arm["status"] == "ok" else broken
    return {
        "text": requirement.text,
        "metric": requirement.metric,
        "relative": requirement.relative,
        "optimizer": arm["optimizer"],
        "label": arm["label"],
        "measured": value,
        "ci95": None if interval is None else list(astuple(interval)),
        "verdict": found,
    }


def _subject(
    requirement: Requirement, arm: Mapping[str, Any], ratios: Iterable[Mapping[str, Any]]
) -> tuple[float | None, Interval | None]:
    if requirement.relative:
        metric = requirement.metric
        found = next((r for r in ratios if r["label"] == arm["label"] and r["metric"] == metric), None)
        if found is None:
            return None, None
        return found["ratio"], None if found["ci95"] is None else Interval(*found["ci95"])
    value = arm.get(requirement.metric) if requirement.metric != "throughput" else arm["throughput"]
    if requirement.metric == "bandwidth_fraction":
        return _fraction(arm)
    ci = value.get("ci95") if isinstance(value, Mapping) else None
    return metric_of(arm, requirement.metric), None if ci is None else Interval(*ci)


def _fraction(arm: Mapping[str, Any]) -> tuple[float | None, Interval | None]:
    """Return the share of the device's bandwidth with the interval that the step's time gives it."""
    fraction, timed = arm["bandwidth"]["fraction"], arm["optimizer_seconds"]
    if fraction is None or timed["ci95"] is None:
        return fraction, None
    low, high = timed["ci95"]
    return fraction, Interval(fraction * timed["median"] / high, fraction * timed["median"] / low)
