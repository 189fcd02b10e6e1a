"""Sequential rule of timed requirements: rounds are added until their intervals decide.

Looking at the data several times finds a difference by chance more often than looking once. The verdicts are therefore
looked at after few, growing numbers of rounds, with wider intervals, as in group sequential tests (Pocock, "Group
sequential methods in the design and analysis of clinical trials", 1977). `tests/test_sequential.py` simulates the error
rates: at most 5 % of false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from optadvise.benchmark.records import Figure, Interval

_WIDENING = 1.25  # of intervals, for up to _LOOKS looks
_LOOKS = 9
_GROWTH = 1.5  # of the rounds from look to look
MAX_ROUNDS = 100_000  # that an estimate of the missing rounds states


def list_looks(rounds: int) -> Iterator[int]:
    """Yield the numbers of rounds after which the verdicts are looked at, the first for the given number.

    Example:
        >>> list(list_looks(7))[:4]
        [7, 11, 16, 24]
    """
    exact = float(rounds)
    for _ in range(_LOOKS):
        yield math.ceil(exact)
        exact *= _GROWTH


def widen(figure: Figure, *, is_ratio: bool) -> Figure:
    """Return a figure with the interval for repeated looks.

    Args:
        figure: Figure with a 95 % interval for a single look; without one, it is returned.
        is_ratio: Whether to widen on the log scale.
    """
    if figure.interval is None or (is_ratio and figure.interval.low <= 0):
        return figure
    low, high = figure.interval.ends
    if is_ratio:
        ends = (figure.value * (end / figure.value) ** _WIDENING for end in (low, high))
        return Figure(figure.value, Interval(*ends))
    return Figure(figure.value, Interval(*(figure.value + (end - figure.value) * _WIDENING for end in (low, high))))


def estimate_rounds(figure: Figure | None, bound: float, rounds: int) -> int | None:
    """Return about how many rounds decide on which side of a bound a figure lies; None if unknown.

    The interval shrinks with the square root of the number of rounds.

    Args:
        figure: Figure with its interval after `rounds` rounds, which contains the bound.

    Example:
        >>> estimate_rounds(Figure(1.0, Interval(0.9, 1.1)), 1.05, 10)
        40
    """
    if figure is None or figure.interval is None or figure.value == bound:
        return None
    low, high = figure.interval.ends
    width = high - figure.value if bound > figure.value else figure.value - low
    needed = rounds * (width / (bound - figure.value)) ** 2
    return math.ceil(needed - 1e-6) if needed <= MAX_ROUNDS else None
