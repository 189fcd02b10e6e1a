"""Signs in the figures of a benchmark that other programs disturbed it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.metrics import metric_value
from optadvise.benchmark.records import ArmResult, BenchmarkWarning, Ratio
from optadvise.core.units import show_figure, show_share

BUSY, VARYING = "busy-processor", "varying-rounds"
_MIN_CPU_SHARE = 0.9  # an idle machine has 0.95 to 1, one other program on two cores 0.4 to 0.7
_MAX_FACTOR = 2.0  # between the slowest and the fastest round of an arm
_MAX_DISAGREEMENT = 1.2  # factor between a ratio over the rounds and the quotient of the medians
_TIMES = ("optimizer_seconds", "step_seconds")
_CONSEQUENCE = "Times and ratios are unreliable, and recommendations do not use them"


def list_warnings(
    measurements: Sequence[ArmMeasurement], arms: Sequence[ArmResult], ratios: Sequence[Ratio]
) -> Iterator[BenchmarkWarning]:
    """Yield at most one warning, the most specific: that the processor was busy, or that times vary between rounds.

    Args:
        measurements: Of the arms, in their order.
        ratios: Ratios to the control.
    """
    slowed = min(arms, key=lambda arm: 1.0 if arm.cpu_share is None else arm.cpu_share)
    if slowed.cpu_share is not None and slowed.cpu_share < _MIN_CPU_SHARE:
        yield BenchmarkWarning(
            id=BUSY,
            text=f"The machine was busy: the training thread of {slowed.label} ran for only "
            f"{show_share(slowed.cpu_share)} of the measured time and waited for a core otherwise. {_CONSEQUENCE}. "
            "Close other programs, or use fewer --threads, and repeat.",
        )
        return
    factors = {measurement.arm.label: _compute_factor(measurement) for measurement in measurements}
    label = max(factors, key=lambda label: factors[label])
    if factors[label] > _MAX_FACTOR:
        cause = f"the slowest round of {label} took {show_figure(factors[label])} times as long as its fastest"
    elif _disagree(arms, ratios):
        cause = "the ratio over the rounds disagrees with the medians"
    else:
        return
    yield BenchmarkWarning(
        id=VARYING,
        text=f"Times vary between rounds: {cause}. {_CONSEQUENCE}. Close other programs, or increase --rounds, and "
        "repeat.",
    )


def _compute_factor(measurement: ArmMeasurement) -> float:
    """Return the factor between the median steps of the slowest and the fastest round; 1 without rounds."""
    medians = [median(samples["step"]) for samples in measurement.rounds if samples.get("step")]
    return max(medians) / min(medians) if medians and min(medians) > 0 else 1.0


def _disagree(arms: Sequence[ArmResult], ratios: Sequence[Ratio]) -> bool:
    """Return whether a ratio to the control disagrees with the quotient of the medians."""
    control = next((arm for arm in arms if arm.role == "control" and arm.step_seconds.samples), None)
    by_label = {arm.label: arm for arm in arms}
    for ratio in ratios:
        if control is None or ratio.metric not in _TIMES or not ratio.ratio:
            continue
        value, control_value = (metric_value(arm, ratio.metric) for arm in (by_label[ratio.label], control))
        if not value or not control_value:
            continue
        disagreement = value / control_value / ratio.ratio
        if max(disagreement, 1 / disagreement) > _MAX_DISAGREEMENT:
            return True
    return False
