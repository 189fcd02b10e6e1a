"""Intervals of memory figures: lines of a breakdown, overhead and sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optadvise.core.records import Interval, MemoryLine
from optadvise.core.units import GIB, show_share
from optadvise.memory.records import UncertaintyFactors
from optadvise.rulebase.memory_rules import CitedRange, MemorySettings

OTHER_NETWORKS = "other networks"  # the line of reference, reward and value networks


def make_exact_interval(value: int) -> Interval:
    """Return the interval of an exact figure."""
    return Interval(low=value, expected=value, high=value)


def make_interval(value: int, low: float, high: float) -> Interval:
    """Return the interval around an expected figure from the factors of its ends."""
    return Interval(low=round(value * low), expected=value, high=round(value * high))


def list_uncertainty_factors(settings: MemorySettings, basis: str, method: str) -> tuple[UncertaintyFactors, ...]:
    """Return the factors of the expected, the low and the high end of the bytes of a training step.

    The high end covers implementations that save more.

    Args:
        basis: How the network's shape is known: exact or typical.
        method: How weights are trained; with adapters, dropout can save copies.
    """
    factors = settings.activation_factors.exact if basis == "exact" else settings.activation_factors.typical
    high = settings.high_factors
    activations = factors.high if method == "full" else max(factors.high, high.adapters)
    return (
        UncertaintyFactors(activations=1, logits=1, working=1),
        UncertaintyFactors(activations=factors.low, logits=factors.low, working=factors.low),
        UncertaintyFactors(activations=activations, logits=max(factors.high, high.logits), working=factors.high),
    )


def add_intervals(intervals: Iterable[Interval]) -> Interval:
    """Return the sum of intervals, assuming that all low ends and all high ends occur together."""
    terms = list(intervals)
    return Interval(
        low=sum(term.low for term in terms),
        expected=sum(term.expected for term in terms),
        high=sum(term.high for term in terms),
    )


def make_breakdown_line(
    part: str, value: int, at_peak: int, explanation: str, interval: Interval | None = None
) -> MemoryLine:
    """Return a line of a breakdown.

    Args:
        part: Label of the line.
        value: Maximum bytes.
        at_peak: Bytes at the peak.
        explanation: Arithmetic or contents.
        interval: Interval of the bytes at the peak; None if they are exact.
    """
    return MemoryLine(
        part=part, bytes=value, how=explanation, at_peak=at_peak, interval=interval or make_exact_interval(at_peak)
    )


def add_overhead(
    lines: Sequence[MemoryLine], settings: MemorySettings, managed: Interval
) -> tuple[Interval, list[MemoryLine]]:
    """Return the total of a breakdown, and its lines with fragmentation and the CUDA context.

    Args:
        lines: Lines of tensors.
        settings: Overhead.
        managed: Bytes of tensors in managed memory, which torch's caching allocator does not hold.
    """
    tensors = _sum_lines(lines)
    fractions = settings.fragmentation
    fragmentation = Interval(
        low=round((tensors.low - managed.low) * fractions.low),
        expected=round((tensors.expected - managed.expected) * fractions.expected),
        high=round((tensors.high - managed.high) * fractions.high),
    )
    context = make_context_interval(settings.context)
    low, expected, high = map(show_share, (fractions.low, fractions.expected, fractions.high))
    beside = " without pageable state" if managed.expected else ""
    explanation = f"{expected} of the above{beside} (typical range {low} to {high})"
    return add_intervals((tensors, fragmentation, context)), [
        *lines,
        make_breakdown_line(
            "fragmentation", fragmentation.expected, fragmentation.expected, explanation, fragmentation
        ),
        make_breakdown_line("CUDA context", context.expected, context.expected, "CUDA libraries and kernels", context),
    ]


def make_context_interval(context: CitedRange) -> Interval:
    """Return the bytes of the CUDA context from a range in GiB."""
    return Interval(
        low=round(context.low * GIB), expected=round(context.expected * GIB), high=round(context.high * GIB)
    )


def summarize_lines(lines: Sequence[MemoryLine], saved: Interval, gradients: int) -> Mapping[str, Interval]:
    """Return the intervals of an estimate's figures by name, without the total.

    Args:
        lines: All lines of the breakdown.
        saved: Bytes of tensors saved for backward.
        gradients: Bytes of all gradients.
    """
    by_figure: dict[str, list[MemoryLine]] = {"weights": [], "optimizer": [], "overhead": []}
    for line in lines:
        figure = _FIGURES.get(line.part, "overhead")
        if figure in by_figure:
            by_figure[figure].append(line)
    return {
        "weights": _sum_lines(by_figure["weights"]),
        "gradients": make_exact_interval(gradients),
        "optimizer": _sum_lines(by_figure["optimizer"]),
        "activations": saved,
        "overhead": _sum_lines(by_figure["overhead"]),
    }


_FIGURES = {
    "weights": "weights", "master copy": "weights", OTHER_NETWORKS: "weights",
    "gradients": "gradients", "optimizer state": "optimizer",
    "activations": "activations", "logits and loss": "activations",
}  # fmt: skip


def _sum_lines(lines: Iterable[MemoryLine]) -> Interval:
    return add_intervals(line.interval for line in lines if line.interval is not None)
