"""Plots drawn with characters in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from optadvise.render.text.console import can_encode

MARKS = "●○▲△■□◆◇★☆"  # of several curves, distinct without color
ASCII_MARKS = "*o+x#%@=&$"
_FRAME, _ASCII_FRAME = ("│", "┤", "└", "─"), ("|", "+", "+", "-")  # side, tick, corner, bottom
_HEIGHT = 13  # rows; odd, so that the middle row is half of the scale
_BRAILLE = 0x2800
_BRAILLE_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column


class Line(Struct, frozen=True):
    """A curve: its values at even distances."""

    name: str
    values: Sequence[float]


class Axis(Struct, frozen=True):
    """An axis: its title, its ends and the format of its numbers."""

    title: str
    low: float
    high: float
    show: Callable[[float], str]


def has_braille(encoding: str | None) -> bool:
    """Return whether an output of an encoding can hold all characters of a plot; one without an encoding can."""
    return can_encode(f"{MARKS}⣿{''.join(_FRAME)}", encoding)


def draw_plot(lines: Sequence[Line], x: Axis, y: Axis, *, braille: bool = True, width: int = 80) -> list[str]:
    """Return the rows of a plot with its axes and legend.

    One curve is drawn in braille dots where the output can hold them; several, or in ASCII, with one mark for each
    curve. Where curves cross, their marks take turns.

    Args:
        lines: The curves, at most as many as there are marks.
        x: Axis that the values are spread along.
        braille: Whether the output can hold more than ASCII.
    """
    marks = MARKS if braille else ASCII_MARKS
    side, tick, corner, bottom = _FRAME if braille else _ASCII_FRAME
    last = _HEIGHT - 1
    ticks = {row: y.show(y.high - (y.high - y.low) * row / last) for row in (0, last // 2, last)}
    margin = max(map(len, ticks.values()))
    columns = width - margin - 2
    is_dotted = braille and len(lines) == 1
    plot = _draw_dots(lines[0].values, y, columns) if is_dotted else _draw_marks(lines, y, columns, marks)
    rows = [" " * margin + f" {y.title}"]
    for number, row in enumerate(plot):
        label = ticks.get(number, "")
        rows.append(f"{label:>{margin}} {tick if label else side}{row}".rstrip())
    rows += [" " * (margin + 1) + corner + bottom * columns, " " * (margin + 2) + _format_scale(x, columns)]
    if len(lines) > 1:
        names = [f"{marks[n % len(marks)]} {line.name}" for n, line in enumerate(lines)]
        rows += _format_legend(names, margin + 2, width)
    return rows


def _format_scale(x: Axis, columns: int) -> str:
    """Return the numbers below the axis: both ends, and the middle with the title of the axis."""
    low, middle, high = x.show(x.low), x.show((x.low + x.high) / 2), x.show(x.high)
    half = columns // 2
    text = f"{low:<{half - len(middle) // 2}}{middle} {x.title}"
    return f"{text:<{columns - len(high)}}{high}"


def _format_legend(names: Sequence[str], indent: int, width: int) -> list[str]:
    rows = [""]
    for name in names:
        if rows[-1] and indent + len(rows[-1]) + 3 + len(name) > width:
            rows.append("")
        rows[-1] += ("   " if rows[-1] else "") + name
    return [" " * indent + row for row in rows]


def _trace(values: Sequence[float], y: Axis, columns: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield columns and rows of a curve, the highest row being 0, with the rows that join one column to the next."""
    span = (y.high - y.low) or 1.0
    before = None
    for column in range(columns):
        value = values[round(column * (len(values) - 1) / max(1, columns - 1))]
        fraction = min(1.0, max(0.0, (value - y.low) / span))
        row = rows - 1 - round(fraction * (rows - 1))
        step = 1 if before is None or row >= before else -1
        first = row if before is None or row == before else before + step
        for joined in range(first, row + step, step):
            yield column, joined
        before = row


def _draw_dots(values: Sequence[float], y: Axis, columns: int) -> list[str]:
    cells = [[0] * columns for _ in range(_HEIGHT)]
    for column, row in _trace(values, y, columns * 2, _HEIGHT * 4):
        cells[row // 4][column // 2] |= _BRAILLE_DOTS[row % 4][column % 2]
    return ["".join(chr(_BRAILLE + cell) if cell else " " for cell in row) for row in cells]


def _draw_marks(lines: Sequence[Line], y: Axis, columns: int, marks: str) -> list[str]:
    cells: list[list[list[int]]] = [[[] for _ in range(columns)] for _ in range(_HEIGHT)]
    for number, line in enumerate(lines):
        for column, row in _trace(line.values, y, columns, _HEIGHT):
            cells[row][column].append(number)
    return [
        "".join(marks[cell[column % len(cell)] % len(marks)] if cell else " " for column, cell in enumerate(row))
        for row in cells
    ]
