"""Proofs about decision tables: gaps, overlaps, conflicts and rules that never apply.

The proofs are exact over the grid of all thresholds, so they hold for every number. A proof that would exceed its step
budget is reported as not proven.
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

GAP, OVERLAP, SHADOWED, OVERRIDE, UNREACHABLE, CONFLICT, DOMAIN, CONTRADICTED = (
    "gap", "overlap", "shadowed", "override", "unreachable", "conflict", "domain", "contradicted",
)  # fmt: skip
UNPROVEN = "not proven"


class Finding(Struct, frozen=True):
    """Defect of a table."""

    kind: str
    table: str
    rules: tuple[str, ...]  # ids of the rules involved
    at: str  # file:line:column of the first rule
    text: str
    point: Point | None = None  # a point with the defect; None if no situation has it


class Adjuster(Struct, frozen=True):
    """Rule or card that adjusts hyperparameters."""

    id: str
    at: str  # file:line:column
    box: Box  # situations in which it applies
    steps: Sequence[Step]


class Census(Struct, frozen=True):
    """Number of cells in a table's grid, and of cells that only the `otherwise` rule decides."""

    table: str
    rows: int
    cells: int
    otherwise: int | None  # None if there are too many cells to count, or the table has no `otherwise`


def check_table(table: Table, axes: Mapping[str, Axis]) -> Iterator[Finding]:
    """Yield the defects of a single table."""
    boxes = [make_box(rule, axes) for rule in table.rules]
    for rule, box in zip(table.rules, boxes, strict=True):
        empty = [name for name, mask in box.items() if not mask & axes[name].every]
        if empty:
            text = f"{rule.id} never applies: its condition on {empty[0]} accepts no value"
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
                text = f"{rule.id} overrides {name}, which is not in the same table"
                yield Finding(kind=OVERRIDE, table=table.id, rules=(rule.id,), at=rule.at, text=text)
            elif table.hit_policy != "unique":
                text = f"{rule.id} overrides {name}, which has no effect with `hit_policy: {table.hit_policy}`"
                yield Finding(kind=OVERRIDE, table=table.id, rules=(rule.id, name), at=rule.at, text=text)
            elif name == rule.id or table.beats[number[name]] >> i & 1:
                text = f"{rule.id} overrides itself through {name}"
                yield Finding(kind=OVERRIDE, table=table.id, rules=(rule.id, name), at=rule.at, text=text)
            elif not is_inside(boxes[i], boxes[number[name]], axes):
                outside = find_uncovered(boxes[i], [boxes[number[name]]], axes)
                text = f"{rule.id} overrides {name}, but also applies where {name} does not"
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
        # Rules that override both can resolve the overlap, alone or together.
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
                text=f"not proven: {first.id} and {second.id} do not overlap without an override",
            )
            continue
        if point is not None:
            text = f"{first.id} and {second.id} overlap; add `overrides` to the more specific rule"
            yield Finding(kind=OVERLAP, table=table.id, rules=pair, at=second.at, text=text, point=point)


def find_rivals(table: Table, index: int, boxes: Sequence[Box]) -> list[int]:
    """Return the indices of the rules that win over a rule where both apply."""
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
            text = f"not proven: {rule.id} can decide"
            yield Finding(kind=UNPROVEN, table=table.id, rules=(rule.id,), at=rule.at, text=text)
            continue
        if not all(mask & axes[name].every for name, mask in boxes[index].items()):
            continue  # reported by `check_table`
        for i in tuple(over):  # reduce to the rules that are necessary
            fewer = [boxes[k] for k in over if k != i]
            if find_uncovered(boxes[index], fewer, axes) is None:
                over.remove(i)
        names = tuple(table.rules[i].id for i in over)
        verb = "take" if len(names) > 1 else "takes"
        text = f"{rule.id} never decides: {_join_names(names)} {verb} precedence wherever it applies"
        yield Finding(kind=SHADOWED, table=table.id, rules=(rule.id, *names), at=rule.at, text=text)
    if table.otherwise is not None:
        last = table.otherwise
        try:
            reached = find_uncovered({}, boxes, axes) is not None
        except TooLargeError:
            text = f"not proven: {last.id} can decide"
            yield Finding(kind=UNPROVEN, table=table.id, rules=(last.id,), at=last.at, text=text)
            return
        if not reached:
            text = f"{last.id} never decides: the other rules cover every situation; remove `otherwise`"
            yield Finding(kind=SHADOWED, table=table.id, rules=(last.id,), at=last.at, text=text)


def _find_gaps(table: Table, boxes: Sequence[Box], axes: Mapping[str, Axis]) -> Iterator[Finding]:
    at = table.rules[-1].at
    try:
        point = find_uncovered({}, boxes, axes)
    except TooLargeError:
        text = f"not proven: {table.id} covers every situation"
        yield Finding(kind=UNPROVEN, table=table.id, rules=(), at=at, text=text)
        return
    if point is not None:
        yield Finding(
            kind=GAP,
            table=table.id,
            rules=(),
            at=at,
            text=f"{table.id} has no rule for this situation; add a rule or `otherwise`",
            point=point,
        )


def count_cells(table: Table, axes: Mapping[str, Axis]) -> Census:
    """Count a table's cells, and the cells that only its `otherwise` rule decides."""
    cells = prod(axes[name].every.bit_count() for name in table.columns)
    if table.otherwise is None:
        return Census(table=table.id, rows=len(table.rules), cells=cells, otherwise=None)
    masks = [table.column(name) for name in table.columns]
    # A rule that no later column can exclude applies to all remaining cells.
    later, constrained = [], 0
    for name in reversed(table.columns):
        later.append(constrained)
        constrained |= sum(1 << i for i, rule in enumerate(table.rules) if name in rule.when)
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
    """Return the rules of a table of adjustments."""
    return [Adjuster(id=rule.id, at=rule.at, box=make_box(rule, axes), steps=rule.steps) for rule in table.rules]


def find_conflicts(adjusters: Sequence[Adjuster], axes: Mapping[str, Axis], table: str) -> Iterator[Finding]:
    """Yield pairs of adjustments that conflict where both apply.

    Scales by constants commute, so they do not conflict. Conflicts are two disjoint clamps, two ranges of one
    hyperparameter, and two scales by the same fact.
    """
    for first, second in combinations(adjusters, 2):
        overlap = intersect_boxes(first.box, second.box)
        if overlap is None or any(not mask & axes[name].every for name, mask in overlap.items()):
            continue
        for step, other in product(first.steps, second.steps):
            conflict = _describe_conflict(step, other)
            if conflict:
                text = f"{first.id} and {second.id} overlap and {conflict}"
                point = find_uncovered(overlap, [], axes)
                yield Finding(
                    kind=CONFLICT, table=table, rules=(second.id, first.id), at=second.at, text=text, point=point
                )


def _describe_conflict(first: Step, second: Step) -> str | None:
    if first.clamp is not None and first.clamp == second.clamp:
        low = max(float("-inf") if step.low is None else step.low for step in (first, second))
        high = min(float("inf") if step.high is None else step.high for step in (first, second))
        return f"clamp {first.clamp} to disjoint ranges" if low > high else None
    if first.scale is not None and first.scale == second.scale:
        if first.by is not None and first.by == second.by:
            return f"both scale {first.scale} by {first.by}"
        if all(step.low is not None and step.high is not None for step in (first, second)):
            return f"both set the range of {first.scale}"
    return None


def _join_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} together"


def find_winning_boxes(table: Table, rule: Rule, boxes: Sequence[Box]) -> tuple[Box, list[Box]]:
    """Return the box in which a rule can decide, and the boxes of the rules that win over it.

    Args:
        rule: A rule of the table, or its `otherwise` rule.
        boxes: Cells that each rule of the table accepts, without those of `otherwise`.
    """
    if rule is table.otherwise:
        return {}, [*boxes]
    index = next(i for i, row in enumerate(table.rules) if row.id == rule.id)
    return boxes[index], [boxes[i] for i in find_rivals(table, index, boxes)]
