"""Layouts of HTML figures, with positions in percent so that figures scale and text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from optadvise.core.advice_records import ScheduleAdvice
from optadvise.core.records import MemoryEstimate
from optadvise.core.schedules import compute_lr
from optadvise.core.units import GIB, show_bytes, show_count, show_number
from optadvise.render.labels import format_interval
from optadvise.render.memory import list_breakdown
from optadvise.render.schedule import sample_steps

_SAMPLES = 240  # points of a curve
_TONES = 8  # colors in the page's style
_LABELLED = 5.0  # percent of the width that a segment's number needs on a phone
_DOT_WIDTH = 6.0  # percent of the width that a dot's number needs
_LINE_HEIGHT = 5.0  # percent of the height that it needs
# Line offsets of a dot's number, the nearest first; where all are taken, numbers overlap.
_LINES = tuple(line for distance in range(1, 9) for line in (-distance, distance))
_MARGIN = 0.12  # around dots, as a fraction of their span


class Tick(Struct, frozen=True):
    """A grid line with its label."""

    at: float
    text: str


class Curve(Struct, frozen=True):
    """Points of a polyline, in thousandths of the figure's width and height."""

    points: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


class Segment(Struct, frozen=True):
    """A part of a stacked bar."""

    left: float
    width: float
    tone: int
    number: int  # its row in the table below
    shown: bool  # whether the number fits
    name: str
    text: str


class Bar(Struct, frozen=True):
    """A stacked bar with the available memory."""

    segments: tuple[Segment, ...]
    limit: Tick | None
    span: tuple[float, float] | None = None  # interval of the total
    span_text: str = ""


class Dot(Struct, frozen=True):
    """A result with its interval; `line` is the offset, in lines, at which its number overlaps no other."""

    number: int
    name: str
    control: bool
    across: float
    up: float
    low: float | None
    high: float | None
    line: int


class Scatter(Struct, frozen=True):
    """Results by two figures."""

    dots: tuple[Dot, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


class ScatterArm(Struct, frozen=True):
    """A result to draw; None for a figure that was not measured."""

    number: int
    name: str
    control: bool
    across: float | None
    up: float | None
    interval: Sequence[float] | None


def list_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers between two figures.

    Example:
        >>> list_ticks(0, 100)
        [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tone_of(number: int) -> int:
    """Return the number, from 1, of a memory row's color."""
    return (number - 1) % _TONES + 1


def layout_curve(schedule: ScheduleAdvice, peak: float, steps: int) -> Curve:
    """Return the curve of a schedule with a peak learning rate over a run of `steps` optimizer steps."""
    last = max(steps - 1, 0) or 1
    values = [(step, compute_lr(schedule, peak, step)) for step in sample_steps(schedule, steps, _SAMPLES)]
    top = max((value for _, value in values), default=0.0) or 1.0
    points = [(1000 * step / last, 1000 - 1000 * value / top) for step, value in values]
    if len(points) == 1:
        points.append((1000.0, points[0][1]))
    return Curve(
        points=" ".join(f"{x:.6g},{y:.6g}" for x, y in points),
        across=tuple(Tick(_percent(step, 0, last), show_count(step)) for step in list_ticks(0, steps)),
        up=tuple(
            Tick(100 - _percent(value, 0, top), show_number(float(f"{value:.3g}"))) for value in list_ticks(0, top)
        ),
    )


def layout_bar(memory: MemoryEstimate) -> Bar | None:
    """Return a bar of the memory of one GPU at the peak, or of its known parts; None if no size is known."""
    rows = list_breakdown(memory)
    if memory.model_states is None or not any(row.size_bytes for row in rows):
        return None
    interval = memory.interval if memory.total is not None else None
    held = sum(row.size_bytes or 0 for row in rows)
    width_bytes = max(held, memory.available or 0, interval.high if interval else 0)
    segments, left = [], 0.0
    for number, row in enumerate(rows, 1):
        if row.size_bytes:
            width = _percent(row.size_bytes, 0, width_bytes)
            is_labelled = width >= _LABELLED
            size = show_bytes(row.size_bytes)
            segments.append(
                Segment(
                    left=round(left, 2),
                    width=width,
                    tone=tone_of(number),
                    number=number,
                    shown=is_labelled,
                    name=row.part,
                    text=size,
                )
            )
            left += width
    limit = None
    if memory.available is not None:
        limit = Tick(_percent(memory.available, 0, width_bytes), f"available: {show_bytes(memory.available)}")
    if interval is None:
        return Bar(tuple(segments), limit)
    span = (_percent(interval.low, 0, width_bytes), _percent(interval.high, 0, width_bytes))
    return Bar(segments=tuple(segments), limit=limit, span=span, span_text=format_interval(interval))


def layout_scatter(arms: Iterable[ScatterArm], format_across: Callable[[float], str]) -> Scatter | None:
    """Return results by a figure and their memory; None if no result has both."""
    points = [(arm, arm.across, arm.up) for arm in arms if arm.across is not None and arm.up is not None]
    if not points:
        return None
    x_low, x_high = _axis_range([x for _, x, _ in points] + [end for arm, *_ in points for end in arm.interval or ()])
    y_low, y_high = _axis_range([y for *_, y in points])
    unit = GIB if y_high >= GIB else 2**20 if y_high >= 2**20 else 1
    places = [(_percent(x, x_low, x_high), 100 - _percent(y, y_low, y_high)) for _, x, y in points]
    occupied = list(places)  # by dots, then by their numbers
    dots: list[Dot] = []
    for (arm, *_), (x, y) in zip(points, places, strict=True):
        line = next((n for n in _LINES if not _is_taken(x, y + _LINE_HEIGHT * n, occupied)), _LINES[0])
        occupied.append((x, y + _LINE_HEIGHT * line))
        low, high = (_percent(end, x_low, x_high) for end in arm.interval) if arm.interval else (None, None)
        dots.append(
            Dot(number=arm.number, name=arm.name, control=arm.control, across=x, up=y, low=low, high=high, line=line)
        )
    return Scatter(
        dots=tuple(dots),
        across=tuple(
            Tick(_percent(value, x_low, x_high), format_across(value)) for value in list_ticks(x_low, x_high, 3)
        ),
        up=tuple(
            Tick(100 - _percent(value * unit, y_low, y_high), show_bytes(value * unit))
            for value in list_ticks(y_low / unit, y_high / unit)
        ),
    )


def _is_taken(x: float, y: float, occupied: Iterable[tuple[float, float]]) -> bool:
    return any(abs(other_x - x) < _DOT_WIDTH and abs(other_y - y) < _LINE_HEIGHT * 0.9 for other_x, other_y in occupied)


def _axis_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * _MARGIN or abs(high) * _MARGIN or 1.0
    return low - margin if low - margin > 0 or low < 0 else 0.0, high + margin


def _percent(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 2)
