"""What the samples say and how surely: medians, ratios between arms, and requirements judged on their intervals."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from statistics import NormalDist, fmean, median, stdev

from msgspec import Struct

from optadvise.core.errors import InputError, nearest
from optadvise.core.units import parse_bytes

# [min, max] covers the median with probability 1 - 2^(1-n): 75 % of the time for three samples, 87.5 % for four and
# 93.75 % for five. Below five any interval would claim more than the samples can say.
MIN_SAMPLES = 5
MIN_ROUNDS = 2

_BYTES, _SECONDS, _NUMBER, _SIGNED = "bytes", "seconds", "number", "signed"
METRICS: dict[str, str] = {
    "state_bytes_per_parameter": _NUMBER,
    "state_bytes": _BYTES,
    "peak_memory": _BYTES,
    "step_seconds": _SECONDS,
    "optimizer_seconds": _SECONDS,
    "forward_seconds": _SECONDS,
    "backward_seconds": _SECONDS,
    "throughput": _NUMBER,
    "first_step_seconds": _SECONDS,
    "bandwidth_fraction": _NUMBER,
    "loss_last": _SIGNED,
}
# Repeated timings: without an interval their value alone decides nothing, or the gate would flap with the noise.
NOISY = frozenset(
    {"step_seconds", "optimizer_seconds", "forward_seconds", "backward_seconds", "throughput", "bandwidth_fraction"}
)

# Taken once, or judged by their own scale: no ratio of them is formed.
ABSOLUTE = frozenset({"first_step_seconds", "bandwidth_fraction", "loss_last"})

_REQUIREMENT = re.compile(r"([A-Za-z_-]+)\s*(<=|>=|<|>)\s*(\S(?:.*\S)?)", re.DOTALL)
_BOUND = re.compile(r"(-?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµμ×]*)", re.IGNORECASE | re.ASCII)
_TIME_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6}
_ACCEPTED = "write METRIC OP BOUND, such as 'state_bytes_per_parameter <= 2.1', 'optimizer_seconds <= 1.3x'"

# Student's t, 97.5 % quantile, for 1 to 10 degrees of freedom; above that the expansion in _t975 is exact to 1e-4.
_T975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


class Interval(Struct, frozen=True):
    """A 95 % confidence interval, in the unit of what it belongs to."""

    low: float
    high: float


class Estimate(Struct, frozen=True):
    """A median with its uncertainty, in the unit of the samples."""

    median: float
    ci95: Interval | None  # None below MIN_SAMPLES samples
    samples: tuple[float, ...]  # as measured, in the order given


class Requirement(Struct, frozen=True):
    """A bound that a measured figure must keep."""

    text: str  # as typed
    metric: str  # a key of METRICS
    op: str  # <= < >= >
    bound: float  # bytes, seconds or a plain number; a multiple of the control's figure where relative
    relative: bool


def median_ci(samples: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Return the median with its bootstrap 95 % interval.

    The percentiles are Hesterberg's expanded ones ("What Teachers Should Know about the Bootstrap", 2015), because the
    plain ones are too narrow for few samples: of seven they cover the median 88 % of the time.

    The interval covers the noise from sample to sample in one run. It knows nothing of how the machine drifts between
    runs: compare arms with `ratio_ci`. With fewer than five samples (`MIN_SAMPLES`) there is no interval.

    Args:
        samples: Finite figures in any one unit; their order does not matter.
        seed: Of the resampling: the same samples and seed give the same interval.
        resamples: Bootstrap replicates.

    Raises:
        ValueError: There are no samples, or one of them is not finite.
    """
    if not samples or not all(math.isfinite(value) for value in samples):
        raise ValueError("median_ci needs at least one sample, and finite ones")
    ordered = sorted(samples)
    middle = median(ordered)
    if len(ordered) < MIN_SAMPLES:
        return Estimate(middle, None, tuple(samples))
    rng = random.Random(seed)
    replicates = sorted(_resampled_median(ordered, rng) for _ in range(resamples))
    spread = _t975(len(ordered) - 1) * math.sqrt(len(ordered) / (len(ordered) - 1))
    tail = int(NormalDist().cdf(-spread) * resamples)
    low, high = replicates[tail], replicates[resamples - 1 - tail]
    return Estimate(middle, Interval(min(low, middle), max(high, middle)), tuple(samples))


def _resampled_median(ordered: Sequence[float], rng: random.Random) -> float:
    """Return the median of one bootstrap resample of sorted samples.

    Drawing n positions and sorting them is slow in Python. The middle one of n sorted uniform draws is
    Beta-distributed, so it is drawn directly; for even n the next one is the least of the n/2 draws above it.
    """
    count = len(ordered)
    half = count // 2
    if count % 2:
        return ordered[_position(rng.betavariate(half + 1, half + 1), count)]
    lower = rng.betavariate(half, half + 1)
    upper = lower + (1 - lower) * (1 - rng.random() ** (1 / half))
    return (ordered[_position(lower, count)] + ordered[_position(upper, count)]) / 2


def _position(fraction: float, count: int) -> int:
    return min(int(fraction * count), count - 1)


def ratio_ci(candidate: Sequence[Sequence[float]], control: Sequence[Sequence[float]]) -> tuple[float, Interval | None]:
    """Return candidate over control with a 95 % interval, from rounds measured next to each other in time.

    Each round gives one ratio of medians, so drift that both arms share cancels; the ratio is the rounds' geometric
    mean and the interval is Student's t over their logarithms. By simulation this covers the truth 94 to 96 % of the
    time from two rounds on. A bootstrap of five rounds' ratios covers 83 %, and one over the pooled samples lets
    shared drift back in, so it is wider where the machine drifts. With fewer than two rounds in which both arms
    have samples there is no interval.

    Args:
        candidate: Samples above zero of the arm in question, by round.
        control: Samples of the control, in the same unit; `control[i]` was measured beside `candidate[i]`. A round in
            which an arm has no samples is left out.

    Raises:
        ValueError: The numbers of rounds differ, no round has both arms, or a median is not finite and above zero.
    """
    if len(candidate) != len(control):
        raise ValueError(f"ratio_ci: {len(candidate)} rounds of the candidate but {len(control)} of the control")
    medians = [
        (median(ours), median(theirs)) for ours, theirs in zip(candidate, control, strict=True) if ours and theirs
    ]
    if not medians or not all(0 < value < math.inf for pair in medians for value in pair):
        raise ValueError("ratio_ci needs a round with samples of both arms, finite and above zero")
    logs = [math.log(ours) - math.log(theirs) for ours, theirs in medians]
    center = fmean(logs)
    if len(logs) < MIN_ROUNDS:
        return math.exp(center), None
    reach = _t975(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(center), Interval(math.exp(center - reach), math.exp(center + reach))


def mean_ci(figures: Sequence[float], *, ratio: bool) -> tuple[float, Interval | None]:
    """Return the mean of independent figures with Student's t 95 % interval; no interval for one figure.

    Args:
        figures: Finite, of any one unit.
        ratio: They are above zero and spread by factors, so that both are taken on their logarithms.

    Raises:
        ValueError: There are none, one of them is not finite, or a ratio is not above zero.

    Example:
        >>> mean_ci([0.5, 2.0], ratio=True)[0], mean_ci([0.5, 2.0], ratio=False)[0]
        (1.0, 1.25)
    """
    if not figures or not all(math.isfinite(figure) for figure in figures):
        raise ValueError("mean_ci needs at least one figure, and finite ones")
    if ratio:
        return ratio_ci([[figure] for figure in figures], [[1.0] for _ in figures])
    center = fmean(figures)
    if len(figures) < MIN_ROUNDS:
        return center, None
    reach = _t975(len(figures) - 1) * stdev(figures) / math.sqrt(len(figures))
    return center, Interval(center - reach, center + reach)


def _t975(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5 above the table)."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def parse_requirement(text: str) -> Requirement:
    """Return what `--require` asks; the text is matched, never evaluated.

    Args:
        text: `METRIC OP BOUND`. A bound is a number in the metric's own unit (bytes, seconds), a number with a unit
            (`2GB`, `5ms`), or a multiple of the control's figure (`1.3x`).

    Raises:
        InputError: The text is no requirement, or names a metric that is not measured.

    Example:
        >>> parse_requirement("optimizer_seconds <= 1.3x")[1:]
        ('optimizer_seconds', '<=', 1.3, True)
    """
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--require {text!r}: not a requirement; {_ACCEPTED}; OP is one of <= < >= >")
    metric = match[1].lower().replace("-", "_")
    if metric not in METRICS:
        raise InputError(f"--require {text!r}: no metric {match[1]!r}; {nearest(metric, METRICS)}")
    bound, relative = _bound(match[3], METRICS[metric], text)
    if relative and metric in ABSOLUTE:
        others = ", ".join(name for name in METRICS if name not in ABSOLUTE)
        raise InputError(f"--require {text!r}: {metric} has no ratio; give an absolute bound, or take one of {others}")
    return Requirement(text.strip(), metric, match[2], bound, relative)


def _bound(text: str, kind: str, whole: str) -> tuple[float, bool]:
    """Return the bound in bytes, seconds or plainly, and whether it multiplies the control's figure."""
    number = _BOUND.fullmatch(text)
    value, unit = (float(number[1]), number[2].lower()) if number else (math.nan, "")
    signed = kind == _SIGNED and unit == ""
    if math.isfinite(value) and (value >= 0 or signed):
        if unit in ("x", "×") and value > 0:
            return value, True
        if unit == "":
            return value, False
        if kind == _SECONDS and unit in _TIME_UNITS:
            return value * _TIME_UNITS[unit], False
        if kind == _BYTES and unit not in ("x", "×"):
            return float(parse_bytes(text, "--require")), False
    units = {_BYTES: ", or with a unit (800MB, 2GB)", _SECONDS: ", or with a unit (5ms, 200us, 1.5s)"}.get(kind, "")
    raise InputError(
        f"--require {whole!r}: no bound {text!r}; write a number{units}, or a multiple of the control (1.3x)"
    )


def judge(requirement: Requirement, value: float | None, interval: Interval | None) -> str:
    """Return `pass`, `fail`, or `inconclusive` where the noise is larger than the question.

    Args:
        requirement: The bound.
        value: The figure measured, in the bound's unit: the ratio to the control where the bound is relative. None
            where it was not measured.
        interval: Its 95 % interval; None for an exact figure (bytes, a loss, the one first step), which its value
            decides. A repeated timing without an interval (too few samples) is inconclusive.
    """
    if value is None or not math.isfinite(value) or (interval is None and requirement.metric in NOISY):
        return "inconclusive"
    ends = (value,) if interval is None else (interval.low, interval.high)
    if not all(math.isfinite(end) for end in ends):
        return "inconclusive"
    kept = [_keeps(requirement, end) for end in ends]
    return "pass" if all(kept) else "inconclusive" if any(kept) else "fail"


def _keeps(requirement: Requirement, value: float) -> bool:
    if requirement.op == "<=":
        return value <= requirement.bound
    if requirement.op == "<":
        return value < requirement.bound
    return value >= requirement.bound if requirement.op == ">=" else value > requirement.bound
