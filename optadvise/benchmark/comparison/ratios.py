"""Two results against each other: ratios with intervals, requirements and a verdict. Pure.

The runs were made at different times, and machines drift. So times are held against each run's own control, whose
rounds were measured beside the candidate's: (new / its control) / (base / its control). What slows a whole run cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import astuple, replace

from optadvise.benchmark.comparison.comparability import doubts, unlike
from optadvise.benchmark.comparison.loaded_result import ArmResult, Figure, Side, common_control, side_of
from optadvise.benchmark.results import SCHEMA_VERSION, verdict
from optadvise.benchmark.statistics import NOISY, Interval, Requirement, judge
from optadvise.core.errors import InputError

# What is compared, with its unit; throughput has the workload's.
COMPARED = {
    "optimizer_seconds": "s",
    "step_seconds": "s",
    "forward_seconds": "s",
    "backward_seconds": "s",
    "throughput": "",
    "state_bytes": "bytes",
    "state_bytes_per_parameter": "bytes/parameter",
    "peak_memory": "bytes",
}
_LARGEST = 100.0  # logarithm of a ratio
METHOD = (
    "Times marked relative_to_control are (new / its control) / (base / its control), as the runs were made at "
    "different times; the others are new / base and also carry the drift between the runs. Intervals are combined as "
    "independent on the log scale. Memory is compared exactly."
)


def compare(
    base: Mapping[str, Any],
    new: Mapping[str, Any],
    requirements: Sequence[Requirement] = (),
    *,
    names: tuple[str, str] = ("BASE", "NEW"),
    force: bool = False,
) -> dict[str, Any]:
    """Return the comparison of two results of `optadvise bench`.

    Args:
        base: The result to compare with.
        new: The result in question.
        requirements: Bounds that NEW's candidates must keep; a relative one multiplies BASE's figure.
        names: How the two are called, for the reader.
        force: Compare even what was measured under different conditions.

    Raises:
        InputError: The conditions differ, no arm is in both, or a requirement is none for a comparison.
        RuleFileError: One of the two is no whole result.
    """
    before, after = side_of(base, "BASE", names[0]), side_of(new, "NEW", names[1])
    differences = unlike(before, after)
    if differences and not force:
        raise InputError(f"BASE and NEW are not comparable: {'; '.join(differences)}; measure alike, or say --force")
    if not set(before.arms) & set(after.arms):
        raise InputError(f"no optimizer is in both: {', '.join(before.arms)} in BASE, {', '.join(after.arms)} in NEW")
    ratios = _ratios(before, after)
    labels = [arm.label for side in (after, before) for arm in side.arms.values() if arm.role == "candidate"]
    judged = [_judged(r, label, before, after, ratios) for r in requirements for label in dict.fromkeys(labels)]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "base": _about(before),
        "new": _about(after),
        "warnings": [*differences, *doubts(before, after), *_hints(base, new, requirements, after)],
        "method": METHOD,
        "ratios": ratios,
        "requirements": judged,
        "verdict": verdict([j["verdict"] for j in judged]),
    }


def _about(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "complete": side.complete,
        "environment": dict(side.environment),
        "spec": dict(side.spec),
    }


def _hints(
    base: Mapping[str, Any], new: Mapping[str, Any], requirements: Sequence[Requirement], after: Side
) -> list[str]:
    found = ["BASE and NEW are one and the same measurement: it cannot show a change"] if base == new else []
    kinds = {arm.peak_kind for arm in after.arms.values()}
    if "process" in kinds and any(r.relative and r.metric == "peak_memory" for r in requirements):
        found.append("peak_memory is the whole process's here, which varies by a percent: leave room in its bound")
    return found


def _ratios(base: Side, new: Side) -> list[dict[str, Any]]:
    control = common_control(base, new)
    found = []
    for label, arm in new.arms.items():
        before = base.arms.get(label)
        if before is None or {arm.status, before.status} != {"ok"}:
            continue
        for metric, named in COMPARED.items():
            if metric not in arm.figures or metric not in before.figures or not _same_kind(metric, before, arm):
                continue
            unit = named or arm.unit
            relative = None if control is None or arm.role == "control" else _relative(metric, before, arm)
            if control is not None and relative is not None:
                found.append(_entry(arm, before, metric, unit, relative, control.optimizer))
            plain = quotient(arm.figures[metric], before.figures[metric])
            found.append(_entry(arm, before, metric, unit, plain, None))
    return found


def _entry(
    arm: ArmResult, before: ArmResult, metric: str, unit: str, ratio: Figure | None, versus: str | None
) -> dict[str, Any]:
    return {
        "optimizer": arm.optimizer,
        "label": arm.label,
        "metric": metric,
        "unit": unit,
        "base": before.figures[metric].value,
        "new": arm.figures[metric].value,
        "ratio": None if ratio is None else ratio.value,
        "ci95": None if ratio is None or ratio.interval is None else list(astuple(ratio.interval)),
        "relative_to_control": versus is not None,
        "versus": versus,
    }


def _same_kind(metric: str, before: ArmResult, arm: ArmResult) -> bool:
    if metric == "peak_memory":
        return before.peak_kind == arm.peak_kind
    return metric != "throughput" or before.unit == arm.unit


def _relative(metric: str, before: ArmResult, arm: ArmResult) -> Figure | None:
    """Return the ratio of the ratios to control; for throughput that is the step's, turned over."""
    name = "step_seconds" if metric == "throughput" else metric
    if name not in before.versus or name not in arm.versus:
        return None
    above, below = arm.versus[name], before.versus[name]
    return quotient(below, above) if metric == "throughput" else quotient(above, below)


def quotient(above: Figure, below: Figure) -> Figure | None:
    """Return a ratio of two independent figures; None where it has no value, as of 1 over 0.

    Its interval's reach to each side is the root of the sum of squares of the reaches that push it there, on the log
    scale (MOVER: Zou and Donner 2008). There is none where one of the two has none.
    """
    if above.value == below.value == 0:
        return Figure(1.0)
    if above.value <= 0 or below.value <= 0:
        return None
    ratio = above.value / below.value
    if not 0 < ratio < math.inf:
        return None
    if above.interval is None or below.interval is None or min(above.interval.low, below.interval.low) <= 0:
        return Figure(ratio)
    down = math.hypot(math.log(above.value / above.interval.low), math.log(below.interval.high / below.value))
    up = math.hypot(math.log(above.interval.high / above.value), math.log(below.value / below.interval.low))
    if max(down, up) > _LARGEST:  # so wide that it says nothing
        return Figure(ratio)
    return Figure(ratio, Interval(ratio * math.exp(-down), ratio * math.exp(up)))


def _judged(
    requirement: Requirement, label: str, base: Side, new: Side, ratios: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    arm = new.arms.get(label)
    figure, found, relative = None, "inconclusive", False  # of a candidate that has gone nothing is known
    if arm is not None and arm.status != "ok":
        found = "fail"
    elif arm is not None and requirement.relative:
        entry = next((r for r in ratios if (r["label"], r["metric"]) == (label, requirement.metric)), None)
        if entry is not None:
            figure, found, relative = _ratio_judged(requirement, entry)
    elif arm is not None:
        figure = arm.figures.get(requirement.metric)
        found = judge(
            requirement, None if figure is None else figure.value, None if figure is None else figure.interval
        )
    return {
        "text": requirement.text,
        "optimizer": (arm or base.arms[label]).optimizer,
        "label": label,
        "measured": None if figure is None else figure.value,
        "ci95": None if figure is None or figure.interval is None else list(astuple(figure.interval)),
        "relative_to_control": relative,
        "verdict": found,
    }


def _ratio_judged(requirement: Requirement, entry: Mapping[str, Any]) -> tuple[Figure | None, str, bool]:
    interval = None if entry["ci95"] is None else Interval(*entry["ci95"])
    figure = None if entry["ratio"] is None else Figure(entry["ratio"], interval)
    if requirement.metric in NOISY:
        found = judge(requirement, entry["ratio"], interval)
    else:  # exact, and BASE's may be zero, so that there is no ratio
        bound = replace(requirement, bound=requirement.bound * entry["base"], relative=False)
        found = judge(bound, entry["new"], None)
    return figure, found, entry["relative_to_control"]
