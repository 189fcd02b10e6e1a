"""Medians and ratios of samples with 95 % confidence intervals."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist, fmean, median, stdev

from optadvise.benchmark.records import Figure, Interval, Timing

# [min, max] covers the median with probability 1 - 2^(1-n): 75 % of the time for three samples, 87.5 % for four and
# 93.75 % for five. Fewer than five samples cannot give a 95 % interval.
MIN_SAMPLES = 5
MIN_ROUNDS = 2

# Student's t, 97.5 % quantile, for 1 to 10 degrees of freedom; above that, the expansion in _t975 is accurate to 1e-4.
_T975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def median_ci(samples: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Timing:
    """Return the median with its bootstrap 95 % interval.

    The percentiles are expanded as in Hesterberg ("What Teachers Should Know about the Bootstrap", 2015), because
    plain percentiles are too narrow for few samples: with seven, they cover the median 88 % of the time.

    The interval covers the noise between samples of one run, not the drift of the machine between runs: use `ratio_ci`
    to compare arms. Fewer than `MIN_SAMPLES` samples have no interval.

    Args:
        samples: Finite values in one unit, in any order.
        seed: Seed of the resampling.

    Raises:
        ValueError: The samples are empty or not finite.
    """
    if not samples or not all(math.isfinite(value) for value in samples):
        raise ValueError("median_ci: samples must be finite and not empty")
    ordered = sorted(samples)
    middle = median(ordered)
    if len(ordered) < MIN_SAMPLES:
        return Timing(median=middle, samples=tuple(samples))
    rng = random.Random(seed)
    replicates = sorted(_resampled_median(ordered, rng) for _ in range(resamples))
    spread = _t975(len(ordered) - 1) * math.sqrt(len(ordered) / (len(ordered) - 1))
    tail = int(NormalDist().cdf(-spread) * resamples)
    low, high = replicates[tail], replicates[resamples - 1 - tail]
    interval = Interval(min(low, middle), max(high, middle))
    return Timing(median=middle, ci95=interval, samples=tuple(samples))


def _resampled_median(ordered: Sequence[float], rng: random.Random) -> float:
    """Return the median of one bootstrap resample of sorted samples.

    Drawing and sorting n positions is slow in Python. The middle of n sorted uniform draws is Beta-distributed, so
    it is drawn directly; for even n, the next draw is the minimum of the n/2 draws above it.
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


def ratio_ci(candidate: Sequence[Sequence[float]], control: Sequence[Sequence[float]]) -> Figure:
    """Return the ratio of candidate to control with a 95 % interval, from interleaved rounds.

    Each round gives one ratio of medians, so drift that affects both arms cancels. The result is the geometric mean of
    the rounds' ratios with Student's t interval on the log scale. In simulations the interval covers the true ratio 94
    to 96 % of the time from two rounds on. A bootstrap over the ratios of five rounds covers 83 %, and a bootstrap over
    the pooled samples does not cancel drift. Fewer than two rounds with samples of both arms have no
    interval.

    Args:
        candidate: Positive samples of the candidate, by round.
        control: Positive samples of the control in the same unit; `control[i]` was measured next to `candidate[i]`.
            Rounds in which an arm has no samples are skipped.

    Raises:
        ValueError: The numbers of rounds differ, no round has both arms, or a median is not positive and finite.
    """
    if len(candidate) != len(control):
        raise ValueError(f"ratio_ci: {len(candidate)} candidate rounds and {len(control)} control rounds must be equal")
    medians = [
        (median(samples), median(control_samples))
        for samples, control_samples in zip(candidate, control, strict=True)
        if samples and control_samples
    ]
    if not medians or not all(0 < value < math.inf for pair in medians for value in pair):
        raise ValueError("ratio_ci: a round must have samples of both arms, positive and finite")
    logs = [math.log(value) - math.log(control_value) for value, control_value in medians]
    mean = _student_mean(logs)
    interval = None if mean.interval is None else Interval(math.exp(mean.interval.low), math.exp(mean.interval.high))
    return Figure(math.exp(mean.value), interval)


def mean_ci(figures: Sequence[float], *, ratio: bool) -> Figure:
    """Return the mean of independent values with Student's t 95 % interval; one value has no interval.

    Args:
        figures: Finite values in one unit.
        ratio: Compute mean and interval on the log scale; the values must be positive.

    Raises:
        ValueError: The values are empty, not finite, or not positive for a ratio.

    Example:
        >>> mean_ci([0.5, 2.0], ratio=True).value, mean_ci([0.5, 2.0], ratio=False).value
        (1.0, 1.25)
    """
    if not figures or not all(math.isfinite(figure) for figure in figures):
        raise ValueError("mean_ci: figures must be finite and not empty")
    if ratio:
        return ratio_ci([[figure] for figure in figures], [[1.0] for _ in figures])
    return _student_mean(figures)


def _student_mean(figures: Sequence[float]) -> Figure:
    """Return the mean with Student's t 95 % interval; one value has no interval."""
    center = fmean(figures)
    if len(figures) < MIN_ROUNDS:
        return Figure(center)
    half_width = _t975(len(figures) - 1) * stdev(figures) / math.sqrt(len(figures))
    return Figure(center, Interval(center - half_width, center + half_width))


def _t975(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5 above the table)."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
