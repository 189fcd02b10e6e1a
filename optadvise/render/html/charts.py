"""Where the marks of a figure go: numbers in, positions in percent of the figure out. Pure.

Percentages and not units of a drawing: so a figure takes any width while its letters keep their size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from optadvise.core.records import MemoryEstimate, ScheduleAdvice
from optadvise.core.schedules import rate
from optadvise.core.units import GIB, show_bytes, show_count, show_number

_SAMPLES = 240  # of a curve
_TONES = 8  # colours that the page's style names
_NUMBERED = 5.0  # percent of the width that a number in a segment takes on a phone
_APART = 6.0  # percent across that a dot's number takes
_LINE = 5.0  # percent up that it takes
_ROOM = 0.12  # left around dots, as a share of what they span


class Tick(Struct, frozen=True):
    """A line of the grid and what is written beside it."""

    at: float
    text: str


class Curve(Struct, frozen=True):
    """Points in thousandths, for a polyline that is stretched over the figure."""

    points: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


class Segment(Struct, frozen=True):
    """A part of a stacked bar."""

    left: float
    width: float
    tone: int
    number: int  # its line in the table below
    shown: bool  # there is room for the number
    name: str
    text: str


class Bar(Struct, frozen=True):
    """A stacked bar with what is there for it."""

    segments: tuple[Segment, ...]
    limit: Tick | None
    span: tuple[float, float] | None  # of the total's interval
    span_text: str


class Dot(Struct, frozen=True):
    """One arm: where it is, its interval, and how many lines below it its number stands clear of others."""

    number: int
    name: str
    control: bool
    across: float
    up: float
    low: float | None
    high: float | None
    line: int


class Scatter(Struct, frozen=True):
    """Arms by two figures."""

    dots: tuple[Dot, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


class Arm(Struct, frozen=True):
    """What a scatter needs of an arm; None was not measured."""

    number: int
    name: str
    control: bool
    across: float | None
    up: float | None
    interval: Sequence[float] | None


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers between two figures.

    Example:
        >>> ticks(0, 100)
        [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def curve(schedule: ScheduleAdvice, peak: float, steps: int) -> Curve:
    """Return a schedule's rate over a run.

    Args:
        schedule: The schedule with the numbers of the run.
        peak: The rate that it scales.
        steps: Optimizer steps of the run.
    """
    last = max(steps - 1, 0)
    taken = {round(last * i / _SAMPLES) for i in range(_SAMPLES + 1)}
    # A corner is where a leg ends or the rate falls; without both of its steps it would be drawn slanted.
    taken |= {step for end in corners(schedule) for step in (end - 1, end) if 0 <= step <= last}
    found = [(step, rate(schedule, peak, step)) for step in sorted(taken)]
    top = max((value for _, value in found), default=0.0) or 1.0
    points = [(1000 * step / (last or 1), 1000 - 1000 * value / top) for step, value in found]
    if len(points) == 1:
        points.append((1000.0, points[0][1]))
    return Curve(
        " ".join(f"{x:.6g},{y:.6g}" for x, y in points),
        tuple(Tick(_percent(step, 0, last or 1), show_count(step)) for step in ticks(0, steps)),
        tuple(Tick(100 - _percent(value, 0, top), show_number(float(f"{value:.3g}"))) for value in ticks(0, top)),
    )


def corners(schedule: ScheduleAdvice) -> list[int]:
    """Return the steps at which one leg of a schedule ends, or its rate falls at once."""
    lists = [schedule.kwargs.get("milestones"), schedule.quantities.get("milestones")]
    ends = {int(str(step)) for found in lists if isinstance(found, list) for step in found}
    return sorted({*ends, int(str(schedule.quantities["warmup_steps"]))} - {0})


def bar(memory: MemoryEstimate) -> Bar | None:
    """Return what a GPU holds, as far as it is known; None where nothing is.

    At the highest moment where that is known, or else weights, gradients and state alone.
    """
    sizes = [line.at_peak if memory.total is not None else line.bytes for line in memory.ledger]
    if memory.known is None or not any(sizes):
        return None
    interval = memory.interval if memory.total is not None else None
    whole = max(sum(size or 0 for size in sizes), memory.available or 0, interval.high if interval else 0)
    segments, left = [], 0.0
    for number, (line, size) in enumerate(zip(memory.ledger, sizes, strict=True), 1):
        if not size:
            continue
        width = _percent(size, 0, whole)
        shown = width >= _NUMBERED
        tone = (number - 1) % _TONES + 1
        segments.append(Segment(round(left, 2), width, tone, number, shown, line.part, show_bytes(size)))
        left += width
    limit = None if memory.available is None else Tick(_percent(memory.available, 0, whole), _there(memory.available))
    if interval is None:
        return Bar(tuple(segments), limit, None, "")
    span = (_percent(interval.low, 0, whole), _percent(interval.high, 0, whole))
    return Bar(tuple(segments), limit, span, f"{show_bytes(interval.low)} to {show_bytes(interval.high)}")


def _there(available: int) -> str:
    return f"the GPU has {show_bytes(available)}"


def scatter(arms: Iterable[Arm], across: Callable[[float], str]) -> Scatter | None:
    """Return arms by a figure and their memory; None where no arm has both.

    Args:
        arms: What was measured.
        across: How the figure across is written.
    """
    both = [(arm, arm.across, arm.up) for arm in arms if arm.across is not None and arm.up is not None]
    if not both:
        return None
    x_low, x_high = _range([x for arm, x, _ in both] + [end for arm, *_ in both for end in arm.interval or ()])
    y_low, y_high = _range([y for *_, y in both])
    unit = GIB if y_high >= GIB else 2**20 if y_high >= 2**20 else 1
    places = {arm.number: (_percent(x, x_low, x_high), 100 - _percent(y, y_low, y_high)) for arm, x, y in both}
    taken = list(places.values())  # by dots, and then by their numbers
    dots: list[Dot] = []
    for arm, *_ in both:
        x, y = places[arm.number]
        ends = [_percent(end, x_low, x_high) for end in arm.interval or ()]
        line = next(n for n in _lines() if not _taken((x, y + _LINE * n), taken))
        taken.append((x, y + _LINE * line))
        low, high = (ends[0], ends[1]) if ends else (None, None)
        dots.append(Dot(arm.number, arm.name, arm.control, x, y, low, high, line))
    return Scatter(
        tuple(dots),
        tuple(Tick(_percent(value, x_low, x_high), across(value)) for value in ticks(x_low, x_high, 3)),
        tuple(
            Tick(100 - _percent(value * unit, y_low, y_high), show_bytes(value * unit))
            for value in ticks(y_low / unit, y_high / unit)
        ),
    )


def _lines() -> Iterator[int]:
    """Yield lines where a dot's number may stand, the nearest first: above it, below it, further above."""
    for away in itertools.count(1):
        yield from (-away, away)


def _taken(place: tuple[float, float], taken: Iterable[tuple[float, float]]) -> bool:
    return any(abs(x - place[0]) < _APART and abs(y - place[1]) < _LINE * 0.9 for x, y in taken)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * _ROOM or abs(high) * _ROOM or 1.0
    return low - room if low - room > 0 or low < 0 else 0.0, high + room


def _percent(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 2)
