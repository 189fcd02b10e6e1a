"""Metrics of an arm, used in requirements, ratios and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from optadvise.benchmark.records import PARTS, ArmResult, Figure, Interval

Quantity = Literal["bytes", "seconds", "number", "signed"]


class Metric(Struct, frozen=True):
    """Definition of a metric."""

    quantity: Quantity
    value: Callable[[ArmResult], float | None]
    # Repeated timings need an interval: judging their value alone would make a gate flaky.
    interval: Callable[[ArmResult], Interval | None] | None = None
    has_ratio: bool = True  # False: measured once, or meaningless as a multiple of the control

    @property
    def is_repeated(self) -> bool:
        """Return whether the metric is measured repeatedly and has an interval; otherwise it is exact."""
        return self.interval is not None


def peak_memory(arm: ArmResult) -> int | None:
    """Return the peak of torch's allocator with managed memory in bytes, or of the process on the CPU.

    Returns:
        None if not measured.
    """
    peak = arm.peak_memory_bytes
    return peak.process if peak.allocated is None else peak.allocated + (peak.paged or 0)


def peak_source(arm: ArmResult) -> Literal["allocated", "process"] | None:
    """Return the source of `peak_memory`; None if it was not measured."""
    peak = arm.peak_memory_bytes
    return "allocated" if peak.allocated is not None else "process" if peak.process is not None else None


def _bandwidth_interval(arm: ArmResult) -> Interval | None:
    """Return the interval of the bandwidth fraction, derived from that of the optimizer's time."""
    fraction, timing = arm.bandwidth.fraction, arm.optimizer_seconds
    if fraction is None or timing.median is None or timing.ci95 is None:
        return None
    return timing.ci95.inverted(fraction * timing.median)


def _timing_metric(part: str) -> Metric:
    return Metric(
        quantity="seconds", value=lambda arm: arm.timing(part).median, interval=lambda arm: arm.timing(part).ci95
    )


METRICS: Mapping[str, Metric] = {
    "state_bytes_per_parameter": Metric("number", lambda arm: arm.state_bytes_per_parameter),
    "state_bytes": Metric("bytes", lambda arm: arm.state_bytes),
    "peak_memory": Metric("bytes", peak_memory),
    "step_seconds": _timing_metric("step"),
    "optimizer_seconds": _timing_metric("optimizer"),
    "forward_seconds": _timing_metric("forward"),
    "backward_seconds": _timing_metric("backward"),
    "throughput": Metric(
        quantity="number", value=lambda arm: arm.throughput.value, interval=lambda arm: arm.throughput.ci95
    ),
    "first_step_seconds": Metric("seconds", lambda arm: arm.first_step_seconds, has_ratio=False),
    "bandwidth_fraction": Metric(
        quantity="number", value=lambda arm: arm.bandwidth.fraction, interval=_bandwidth_interval, has_ratio=False
    ),
    "loss_last": Metric("signed", lambda arm: arm.loss.last, has_ratio=False),
}
# Metrics with ratios to the control, in the order of the result.
TIMED_RATIOS = (*(f"{part}_seconds" for part in PARTS), "throughput")
EXACT_RATIOS = ("state_bytes", "state_bytes_per_parameter", "peak_memory")


def metric_value(arm: ArmResult, name: str) -> float | None:
    """Return an arm's value of a metric in the metric's unit; None if it was not measured."""
    return METRICS[name].value(arm)


def metric_figure(arm: ArmResult, name: str) -> Figure | None:
    """Return an arm's value of a metric with its interval; None if it was not measured."""
    metric = METRICS[name]
    value = metric.value(arm)
    return None if value is None else Figure(value, metric.interval(arm) if metric.interval else None)
