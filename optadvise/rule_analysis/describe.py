"""Text of cells, boxes and points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from optadvise.core.cards import UNKNOWN
from optadvise.rulebase.regions import Box, Point
from optadvise.rulebase.tables import Axis, list_cells


def describe_point(point: Point, axes: Mapping[str, Axis]) -> str:
    """Return the facts at a point as text."""
    return describe_box({name: 1 << cell for name, cell in point.items()}, axes)


def describe_box(box: Box, axes: Mapping[str, Axis]) -> str:
    """Return the conditions of a box as text, or `any situation`."""
    parts = [describe_cells(name, mask, axes[name]) for name, mask in sorted(box.items()) if axes[name].every & ~mask]
    return ", ".join(parts) or "any situation"


def describe_cells(fact: str, mask: int, axis: Axis) -> str:
    """Return the values of cells as text, such as `model cnn or vit`, `batch_size > 8192` or `params unknown`."""
    return f"{fact} {describe_values(mask, axis, {})}"


def describe_values(mask: int, axis: Axis, names: Mapping[str, str]) -> str:
    """Return the values of cells as text, such as `cnn or vit`, `> 8192` or `unknown`.

    Args:
        names: Texts of choices that are not shown by their ids.
    """
    mask &= axis.every
    if axis.choices is not None:
        return _describe_choices(mask, axis, names)
    parts = [_describe_range(cells, axis) for cells in _list_ranges(mask & ~(1 << axis.unknown_cell), axis)]
    parts += [names.get(UNKNOWN, UNKNOWN)] if mask >> axis.unknown_cell & 1 else []
    return " or ".join(parts)


def _describe_choices(mask: int, axis: Axis, names: Mapping[str, str]) -> str:
    """Return the choices of cells, or `not` with the other choices if these are fewer."""
    choices = [names.get(choice, choice) for choice in (*(axis.choices or ()), UNKNOWN)]
    accepted = [choices[cell] for cell in list_cells(mask)]
    others = [choices[cell] for cell in list_cells(axis.every & ~mask)]
    return " or ".join(accepted) if len(accepted) <= len(others) + 1 else f"not {' or '.join(others)}"


def _list_ranges(mask: int, axis: Axis) -> Iterator[range]:
    """Yield the ranges of adjacent cells; cells without a whole number do not interrupt a range."""
    counts = list_cells(axis.every & ~(1 << axis.unknown_cell))
    for is_accepted, group in groupby(counts, key=lambda cell: mask >> cell & 1):
        if is_accepted:
            first, *others = group
            yield range(first, (others or [first])[-1] + 1)


def _describe_range(cells: range, axis: Axis) -> str:
    (low, next_low), (previous_high, high) = axis.bounds(cells[0]), axis.bounds(cells[-1])
    if low == high:
        return f"{low:,.0f}"
    parts = [] if low == float("-inf") else [f"{'>=' if low == next_low else '>'} {low:,.0f}"]
    parts += [] if high == float("inf") else [f"{'<=' if high == previous_high else '<'} {high:,.0f}"]
    return " and ".join(parts) or "known"
