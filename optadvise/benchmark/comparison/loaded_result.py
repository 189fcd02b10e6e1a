"""One of two results that are compared, read with care: a file may have been made by hand, or cut off. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from optadvise.benchmark.spec import metric_of
from optadvise.benchmark.statistics import METRICS, NOISY, Interval
from optadvise.core.errors import RuleFileError


class Figure(Struct, frozen=True):
    """A figure in the unit of its metric, and how sure it is."""

    value: float
    interval: Interval | None = None  # None: exact, or too few samples to say


class ArmResult(Struct, frozen=True):
    """What a comparison has to know of one arm."""

    optimizer: str
    label: str
    role: str
    status: str
    error: str | None
    made: tuple[str, str | None]  # import path and variant
    kwargs: Mapping[str, Any]
    parameters: int | None
    unit: str  # of the throughput
    peak_kind: str | None  # who counted the peak: allocated (torch's allocator) or process
    figures: Mapping[str, Figure]  # by metric
    versus: Mapping[str, Figure]  # ratios to the run's own control, of times alone


class Side(Struct, frozen=True):
    """One of the two results."""

    role: str  # BASE or NEW
    name: str  # as typed
    complete: bool
    environment: Mapping[str, Any]
    spec: Mapping[str, Any]
    arms: Mapping[str, ArmResult]  # by label

    @property
    def control(self) -> ArmResult | None:
        """The arm that the others are held against."""
        return next((arm for arm in self.arms.values() if arm.role == "control"), None)


def common_control(base: Side, new: Side) -> ArmResult | None:
    """Return the control where both runs had the same, in the same implementation."""
    ours, theirs = new.control, base.control
    same = ours is not None and theirs is not None and (ours.optimizer, ours.made) == (theirs.optimizer, theirs.made)
    return ours if same else None


def side_of(result: Mapping[str, Any], role: str, name: str) -> Side:
    """Return what a comparison needs of a result.

    Args:
        result: What `optadvise bench --json` wrote.
        role: BASE or NEW.
        name: The file or the name that it came from.

    Raises:
        RuleFileError: Something of it is missing or no figure.
    """
    try:
        environment, spec = dict(result["environment"]), dict(result["spec"])
        json.dumps([environment, spec], allow_nan=False)  # they are passed on
        environment["packages"] = dict(environment.get("packages") or {})
        for key in ("load", "cores"):
            _maybe(environment.get(key))
        versus: dict[str, dict[str, Figure]] = {}
        for entry in result["ratios"]:
            if entry["metric"] in NOISY:
                versus.setdefault(entry["label"], {})[entry["metric"]] = figure_of(entry["ratio"], entry["ci95"])
        arms = [_arm(arm, versus.get(arm["label"], {})) for arm in result["arms"]]
        return Side(role, name, result["complete"] is True, environment, spec, {arm.label: arm for arm in arms})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RuleFileError(f"no whole result of optadvise bench ({what}); measure again", name) from error


def _arm(arm: Mapping[str, Any], versus: Mapping[str, Figure]) -> ArmResult:
    made, peak = arm["implementation"], arm["peak_memory_bytes"]
    kind = next((kind for kind in ("allocated", "process") if peak.get(kind) is not None), None)
    if not all(isinstance(arm[key], str) for key in ("optimizer", "label", "role", "status")):
        raise ValueError("an arm has no name")
    _maybe(arm["parameters"])
    values = {metric: metric_of(arm, metric) for metric in METRICS}
    figures = {m: figure_of(value, _interval(arm, m)) for m, value in values.items() if value is not None}
    return ArmResult(
        arm["optimizer"], arm["label"], arm["role"], arm["status"], arm["error"], (made["import"], made["variant"]),
        made["kwargs"], arm["parameters"], arm["throughput"]["unit"], kind, figures, versus,
    )  # fmt: skip


def _interval(arm: Mapping[str, Any], metric: str) -> Sequence[float] | None:
    if metric == "bandwidth_fraction":  # as sure as the step's time is
        fraction, timed = arm["bandwidth"]["fraction"], arm["optimizer_seconds"]
        ends = timed["ci95"]
        return None if ends is None else [fraction * timed["median"] / end for end in reversed(ends)]
    return arm[metric]["ci95"] if metric in NOISY else None


def _maybe(value: Any) -> None:
    if value is not None:
        figure_of(value, None)


def figure_of(value: Any, interval: Any) -> Figure:
    """Return a figure.

    Args:
        value: A finite number.
        interval: Its 95 % interval's two ends, or None.

    Raises:
        ValueError: They are not.
    """
    numbers = [value, *(() if interval is None else interval)]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) or not math.isfinite(n) for n in numbers):
        raise ValueError(f"{numbers} are no figures")
    if interval is not None and not (len(interval) == 2 and interval[0] <= value <= interval[1]):
        raise ValueError(f"{value} does not lie in {interval}")
    return Figure(value, None if interval is None else Interval(*interval))
