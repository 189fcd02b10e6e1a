"""Curves as characters, for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

FANCY = "●○▲△■□◆◇★☆"  # of several lines, told apart without colour
PLAIN = "*o+x#%@=&$"
WIDTH, HEIGHT = 80, 13  # odd, so that the middle row is half of the scale
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
_BRAILLE = 0x2800


class Line(Struct, frozen=True):
    """A curve: its values at even distances."""

    name: str
    values: Sequence[float]


class Axis(Struct, frozen=True):
    """What an axis is called, where it ends, and how its numbers are written."""

    title: str
    low: float
    high: float
    show: Callable[[float], str]


def encodes(encoding: str | None) -> bool:
    """Can an output of an encoding show more than ASCII? One without an encoding holds text."""
    try:
        f"{FANCY}⣿─│┤".encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def plot(lines: Sequence[Line], x: Axis, y: Axis, *, fancy: bool = True, width: int = WIDTH) -> list[str]:
    """Return a picture of curves, line by line, with its axes and which curve has which mark.

    One curve is drawn in braille dots where they can be shown; several, or in ASCII, as one mark for each curve. Where
    curves lie on each other their marks take turns.

    Args:
        lines: The curves, at most as many as there are marks.
        x: The axis that the values are spread along.
        y: The axis of the values.
        fancy: Whether more than ASCII can be shown.
        width: Columns in all.
    """
    last = HEIGHT - 1
    ticks = {row: y.show(y.high - (y.high - y.low) * row / last) for row in (0, last // 2, last)}
    margin = max(map(len, ticks.values()))
    columns = width - margin - 2
    if fancy and len(lines) == 1:
        rows = _dotted(lines[0].values, y, columns)
    else:
        rows = _marked(lines, y, columns, FANCY if fancy else PLAIN)
    bar, tick, corner, dash = ("│", "┤", "└", "─") if fancy else ("|", "+", "+", "-")
    found = [" " * margin + f" {y.title}"]
    for number, row in enumerate(rows):
        label = ticks.get(number, "")
        found.append(f"{label:>{margin}} {tick if label else bar}{row}".rstrip())
    found.append(" " * (margin + 1) + corner + dash * columns)
    found.append(" " * (margin + 2) + _scale(x, columns))
    if len(lines) > 1:
        marks = FANCY if fancy else PLAIN
        found += _legend([f"{marks[n % len(marks)]} {line.name}" for n, line in enumerate(lines)], margin + 2, width)
    return found


def _scale(x: Axis, columns: int) -> str:
    """Return the numbers below the axis: both ends and the middle, with the axis's title beside it."""
    low, middle, high = x.show(x.low), x.show((x.low + x.high) / 2), x.show(x.high)
    half = columns // 2
    text = f"{low:<{half - len(middle) // 2}}{middle} {x.title}"
    return f"{text:<{columns - len(high)}}{high}"


def _legend(words: Sequence[str], indent: int, width: int) -> list[str]:
    rows = [""]
    for word in words:
        if rows[-1] and indent + len(rows[-1]) + 3 + len(word) > width:
            rows.append("")
        rows[-1] += ("   " if rows[-1] else "") + word
    return [" " * indent + row for row in rows]


def _places(values: Sequence[float], y: Axis, columns: int, rows: int) -> list[int]:
    """Return the row of a curve in every column, the highest being 0."""
    span = (y.high - y.low) or 1.0
    found = []
    for column in range(columns):
        value = values[round(column * (len(values) - 1) / max(1, columns - 1))]
        share = min(1.0, max(0.0, (value - y.low) / span))
        found.append(rows - 1 - round(share * (rows - 1)))
    return found


def _between(before: int, now: int) -> range:
    """Return the rows that join a column to the one before, without that one's own."""
    return range(before + 1, now + 1) if now > before else range(now, before) if now < before else range(now, now + 1)


def _dotted(values: Sequence[float], y: Axis, columns: int) -> list[str]:
    cells = [[0] * columns for _ in range(HEIGHT)]
    places = _places(values, y, columns * 2, HEIGHT * 4)
    for column, (before, now) in enumerate(zip([places[0], *places], places, strict=False)):
        for row in _between(before, now):
            cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(chr(_BRAILLE + cell) if cell else " " for cell in row) for row in cells]


def _marked(lines: Sequence[Line], y: Axis, columns: int, marks: str) -> list[str]:
    taken: list[list[list[int]]] = [[[] for _ in range(columns)] for _ in range(HEIGHT)]
    for number, line in enumerate(lines):
        places = _places(line.values, y, columns, HEIGHT)
        for column, (before, now) in enumerate(zip([places[0], *places], places, strict=False)):
            for row in _between(before, now):
                taken[row][column].append(number)
    return [
        "".join(marks[cell[column % len(cell)] % len(marks)] if cell else " " for column, cell in enumerate(row))
        for row in taken
    ]
