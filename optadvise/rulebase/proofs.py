"""Proofs about tables without trying situations: gaps, contradictions, and rows that never win.

Every statement is exact over the grid that the thresholds of all rules cut, so it holds for every number. A question
that would take too long is reported as not proven; nothing is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from math import prod

from msgspec import Struct

from optadvise.core.cards import Step
from optadvise.rulebase.regions import (
    Box,
    Point,
    TooLargeError,
    count_end_states,
    find_uncovered,
    intersect_boxes,
    is_inside,
    list_columns,
    make_box,
    touches,
)
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Axis, Table

GAP, OVERLAP, SHADOWED, OVERRIDE, UNREACHABLE, CONFLICT, DOMAIN = (
    "gap", "overlap", "shadowed", "override", "unreachable", "conflict", "domain",
)  # fmt: skip
UNPROVEN = "not proven"


class Finding(Struct, frozen=True):
    """Something that is wrong with a table."""

    kind: str
    table: str
    rules: tuple[str, ...]  # the offending rows
    at: str  # file:line:column of the first
    text: str
    point: Point | None = None  # where it shows; None where it shows nowhere


class Adjuster(Struct, frozen=True):
    """A rule or a card that adjusts hyperparameters."""

    id: str
    at: str  # file:line:column
    box: Box  # where it adjusts
    steps: Sequence[Step]


class Census(Struct, frozen=True):
    """The number of cells of a table's own grid, and of those that only the `otherwise` row decides."""

    table: str
    rows: int
    cells: int
    otherwise: int | None  # None where there were too many to count, or nothing falls through by design


def check_table(table: Table, axes: Mapping[str, Axis]) -> Iterator[Finding]:
    """Yield what is wrong with a table, taken by itself."""
    boxes = [make_box(rule, axes) for rule in table.rules]
    for rule, box in zip(table.rules, boxes, strict=True):
        empty = [name for name, mask in box.items() if not mask & axes[name].every]
        if empty:
            text = f"{rule.id} can never apply: no {empty[0]} is accepted by its condition"
            yield Finding(kind=SHADOWED, table=table.id, rules=(rule.id,), at=rule.at, text=text)
    yield from _check_overrides(table, boxes, axes)
    if table.hit_policy == "collect":
        return
    if table.hit_policy == "unique":
        yield from _find_overlaps(table, boxes, axes)
    yield from _find_shadowed(table, boxes, axes)
    if table.otherwise is None:
        yield from _find_gaps(table, boxes, axes)


def _check_overrides(table: Table, boxes: Sequence[Box], axes: Mapping[str, Axis]) -> Iterator[Finding]:
    number = {rule.id: i for i, rule in enumerate(table.rules)}
    for i, rule in enumerate(table.rules):
        for name in rule.overrides:
            if name not in number:
                text = f"{rule.id} overrides {name}, which is not in its table"
                yield Finding(kind=OVERRIDE, table=table.id, rules=(rule.id,), at=rule.at, text=text)
            elif table.hit_policy != "unique":
                text = f"{rule.id} overrides {name}, which has no effect with `hit_policy: {table.hit_policy}`"
                yield Finding(kind=OVERRIDE, table=table.id, rules=(rule.id, name), at=rule.at, text=text)
            elif name == rule.id or table.beats[number[name]] >> i & 1:
                text = f"{rule.id} overrides itself through {name}"
                yield Finding(kind=OVERRIDE, table=table.id, rules=(rule.id, name), at=rule.at, text=text)
            elif not is_inside(boxes[i], boxes[number[name]], axes):
                outside = find_uncovered(boxes[i], [boxes[number[name]]], axes)
                text = f"{rule.id} overrides {name} but is not inside it"
                yield Finding(
                    kind=OVERRIDE, table=table.id, rules=(rule.id, name), at=rule.at, text=text, point=outside
                )


def _find_overlaps(table: Table, boxes: Sequence[Box], axes: Mapping[str, Axis]) -> Iterator[Finding]:
    for i, j in combinations(range(len(boxes)), 2):
        if table.beats[i] >> j & 1 or table.beats[j] >> i & 1 or not touches(boxes[i], boxes[j]):
            continue
        common = intersect_boxes(boxes[i], boxes[j])
        if common is None:
            continue
        # Others that override both may settle it, together where none does alone.
        over_both = [boxes[k] for k, beaten in enumerate(table.beats) if beaten >> i & beaten >> j & 1]
        first, second = table.rules[i], table.rules[j]
        pair = (second.id, first.id)
        try:
            point = find_uncovered(common, over_both, axes)
        except TooLargeError:
            yield Finding(
                kind=UNPROVEN,
                table=table.id,
                rules=pair,
                at=second.at,
                text=f"whether {first.id} and {second.id} meet unsettled",
            )
            continue
        if point is not None:
            text = f"{first.id} and {second.id} meet and neither overrides the other"
            yield Finding(kind=OVERLAP, table=table.id, rules=pair, at=second.at, text=text, point=point)


def find_rivals(table: Table, index: int, boxes: Sequence[Box]) -> list[int]:
    """Return the rows that win over a row where both apply."""
    if table.hit_policy == "collect":
        return []
    is_ordered = table.hit_policy == "first"
    before = range(index) if is_ordered else range(len(boxes))
    return [
        i for i in before
        if i != index and (is_ordered or table.beats[i] >> index & 1) and touches(boxes[i], boxes[index])
    ]  # fmt: skip


def _find_shadowed(table: Table, boxes: Sequence[Box], axes: Mapping[str, Axis]) -> Iterator[Finding]:
    for index, rule in enumerate(table.rules):
        over = find_rivals(table, index, boxes)
        try:
            if not over or find_uncovered(boxes[index], [boxes[i] for i in over], axes) is not None:
                continue
        except TooLargeError:
            yield Finding(
                kind=UNPROVEN, table=table.id, rules=(rule.id,), at=rule.at, text=f"whether {rule.id} can ever win"
            )
            continue
        if not all(mask & axes[name].every for name, mask in boxes[index].items()):
            continue  # told already
        for i in tuple(over):  # leave only what it takes
            fewer = [boxes[k] for k in over if k != i]
            if find_uncovered(boxes[index], fewer, axes) is None:
                over.remove(i)
        names = tuple(table.rules[i].id for i in over)
        text = f"{rule.id} can never win: {_list(names)} {'come' if len(names) > 1 else 'comes'} before it everywhere"
        yield Finding(kind=SHADOWED, table=table.id, rules=(rule.id, *names), at=rule.at, text=text)
    if table.otherwise is not None:
        last = table.otherwise
        try:
            reached = find_uncovered({}, boxes, axes) is not None
        except TooLargeError:
            yield Finding(
                kind=UNPROVEN,
                table=table.id,
                rules=(last.id,),
                at=last.at,
                text=f"whether anything is left to {last.id}",
            )
            return
        if not reached:
            text = f"{last.id} can never win: the rows leave nothing to it; drop `otherwise`"
            yield Finding(kind=SHADOWED, table=table.id, rules=(last.id,), at=last.at, text=text)


def _find_gaps(table: Table, boxes: Sequence[Box], axes: Mapping[str, Axis]) -> Iterator[Finding]:
    at = table.rules[-1].at
    try:
        point = find_uncovered({}, boxes, axes)
    except TooLargeError:
        yield Finding(
            kind=UNPROVEN, table=table.id, rules=(), at=at, text=f"whether {table.id} answers every situation"
        )
        return
    if point is not None:
        yield Finding(
            kind=GAP,
            table=table.id,
            rules=(),
            at=at,
            text=f"{table.id} has no row for this situation and no `otherwise`",
            point=point,
        )


def count_cells(table: Table, axes: Mapping[str, Axis]) -> Census:
    """Count a table's cells, and those that fall through to what it says otherwise."""
    cells = prod(axes[name].every.bit_count() for name in table.columns)
    if table.otherwise is None:
        return Census(table=table.id, rows=len(table.rules), cells=cells, otherwise=None)
    masks = [table.column(name) for name in table.columns]
    # A row that no later column can exclude applies whatever follows: nothing falls through any more.
    later, still = [], 0
    for name in reversed(table.columns):
        later.append(still)
        still |= sum(1 << i for i, rule in enumerate(table.rules) if name in rule.when)
    later.reverse()

    def step(alive: int, number: int, cell: int) -> int:
        if alive < 0:
            return alive
        alive &= masks[number][cell]
        return -1 if alive & ~later[number] else alive

    swept = list_columns(table.columns, lambda name, cell: table.column(name)[cell], axes)
    try:
        ends = count_end_states(swept, (1 << len(table.rules)) - 1, step)
    except TooLargeError:
        return Census(table=table.id, rows=len(table.rules), cells=cells, otherwise=None)
    return Census(table=table.id, rows=len(table.rules), cells=cells, otherwise=ends[0][0] if 0 in ends else 0)


def list_adjusters(table: Table, axes: Mapping[str, Axis]) -> list[Adjuster]:
    """Return the rows of a table of adjustments."""
    return [Adjuster(id=rule.id, at=rule.at, box=make_box(rule, axes), steps=rule.steps) for rule in table.rules]


def find_conflicts(adjusters: Sequence[Adjuster], axes: Mapping[str, Axis], table: str) -> Iterator[Finding]:
    """Yield pairs of adjustments that set one number differently where both apply.

    Scales by constants commute and may add up. Two clamps whose ranges do not meet do not, nor do two ranges of one
    number, and to follow one fact twice counts it twice.
    """
    for first, second in combinations(adjusters, 2):
        overlap = intersect_boxes(first.box, second.box)
        if overlap is None or any(not mask & axes[name].every for name, mask in overlap.items()):
            continue
        for step, other in product(first.steps, second.steps):
            why = _describe_clash(step, other)
            if why:
                text = f"{first.id} and {second.id} meet and {why}"
                point = find_uncovered(overlap, [], axes)
                yield Finding(
                    kind=CONFLICT, table=table, rules=(second.id, first.id), at=second.at, text=text, point=point
                )


def _describe_clash(first: Step, second: Step) -> str | None:
    if first.clamp is not None and first.clamp == second.clamp:
        low = max(float("-inf") if step.low is None else step.low for step in (first, second))
        high = min(float("inf") if step.high is None else step.high for step in (first, second))
        return f"clamp {first.clamp} into ranges that share nothing" if low > high else None
    if first.scale is not None and first.scale == second.scale:
        if first.by is not None and first.by == second.by:
            return f"both scale {first.scale} with {first.by}"
        if all(step.low is not None and step.high is not None for step in (first, second)):
            return f"both set the range of {first.scale}"
    return None


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} together"


def find_winning_boxes(table: Table, rule: Rule, axes: Mapping[str, Axis]) -> tuple[Box, list[dict[str, int]]]:
    """Return where a row may win: its box, and the boxes of the rows that win over it.

    Args:
        rule: The row, or what the table says otherwise.
    """
    boxes: list[dict[str, int]] = [make_box(row, axes) for row in table.rules]
    if rule is table.otherwise:
        return {}, boxes
    index = next(i for i, row in enumerate(table.rules) if row.id == rule.id)
    return boxes[index], [boxes[i] for i in find_rivals(table, index, boxes)]
