"""Regions of the grid of facts: boxes, uncovered points, and counting of cells by decision.

A box maps facts to bit masks of accepted cells; other facts can have any value. All results are exact. A search that
exceeds its step budget raises `TooLargeError`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from msgspec import Struct

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import OptadviseError
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Axis, list_cells

Box: TypeAlias = "Mapping[str, int]"
Point: TypeAlias = "dict[str, int]"
Axes: TypeAlias = "Mapping[str, Axis]"
_State = TypeVar("_State", bound=Hashable)
_Answer = TypeVar("_Answer", bound=Hashable)

BUDGET = 100_000  # steps of one search, or states of one sweep


class TooLargeError(OptadviseError):
    """A proof exceeds its step budget; its result is unknown."""

    exit_code = 5

    def __init__(self) -> None:
        """Compose the one-line message."""
        message = f"a proof about the rules exceeds {BUDGET:,} steps; split the tables into smaller ones"
        super().__init__(message, code=ErrorCode.INCONCLUSIVE)


def make_box(rule: Rule, axes: Axes) -> dict[str, int]:
    """Return the cells that a rule accepts."""
    return {name: axes[name].accepted(condition) for name, condition in rule.when.items()}


def intersect_boxes(a: Box, b: Box) -> dict[str, int] | None:
    """Return the intersection of two boxes; None if it is empty.

    Example:
        >>> intersect_boxes({"model": 0b011}, {"model": 0b110, "task": 0b1})
        {'model': 2, 'task': 1}
    """
    if not touches(b, a):
        return None
    common = dict(a)
    for name, mask in b.items():
        common[name] = mask & common.get(name, mask)
    return common


def touches(a: Box, b: Box) -> bool:
    """Return whether two boxes share a cell."""
    for name, mask in a.items():  # noqa: SIM110, because `all` would take twice as long
        if not mask & b.get(name, -1):
            return False
    return True


def is_inside(inner: Box, outer: Box, axes: Axes) -> bool:
    """Return whether a box is contained in another; an empty box is."""
    return any(not mask & axes[name].every for name, mask in inner.items()) or all(
        not inner.get(name, -1) & axes[name].every & ~mask for name, mask in outer.items()
    )


def find_uncovered(
    box: Box, others: Iterable[Box], axes: Axes, prefer: Mapping[str, int] | None = None
) -> Point | None:
    """Return a point of a box outside all other boxes; None if they cover the box.

    Args:
        others: Boxes to exclude.
        prefer: Preferred cells by fact.

    Returns:
        A cell for each fact that is relevant for the search.

    Raises:
        TooLargeError: The search exceeds its step budget.
    """
    cells = {name: mask & axes[name].every for name, mask in box.items()}
    if not all(cells.values()):
        return None
    point = _Search(axes, prefer or {}).within(cells, list(others))
    return None if point is None else {name: _pick(mask, name, prefer or {}) for name, mask in point.items()}


class _Search:
    """Search for a point outside of boxes, like a SAT solver: unit propagation, then branching."""

    def __init__(self, axes: Axes, prefer: Mapping[str, int]) -> None:
        self._every = {name: axis.every for name, axis in axes.items()}
        self._preferred = {name: 1 << cell for name, cell in prefer.items()}
        self._steps = 0

    def within(self, box: dict[str, int], others: list[Box]) -> dict[str, int] | None:
        """Return a part of a box that is disjoint from all others, or None."""
        self._steps += 1
        if self._steps > BUDGET:
            raise TooLargeError
        every, preferred, forced = self._every, self._preferred, True
        while forced:
            forced = False
            unresolved: list[Box] = []
            fewest, branch = 0, ("", 0)  # a way out of the box that has the fewest
            for other in others:
                # The facts by which this box extends beyond the other one, unless they are disjoint.
                count, way = 0, ("", 0)
                for name, mask in other.items():
                    cells = box.get(name)
                    if cells is None:
                        cells = every[name]
                    if not cells & mask:
                        break
                    if cells & ~mask:
                        count += 1
                        if count == 1:
                            way = name, mask
                else:
                    if not count:
                        return None
                    if count == 1:
                        name, mask = way
                        box = {**box, name: box.get(name, every[name]) & ~mask}
                        forced = True
                    else:
                        unresolved.append(other)
                        if not fewest or count < fewest:
                            fewest, branch = count, way
            others = unresolved
        if not others:
            return box
        point = {}
        for name in {*box}.union(*others):
            cells = box.get(name, every[name])
            point[name] = preferred.get(name, 0) & cells or cells & -cells
        if not any(touches(other, point) for other in others):
            return point
        name, mask = branch
        cells = box.get(name, every[name])
        parts = [cells & ~mask, cells & mask]
        if preferred.get(name, 0) & mask:
            parts.reverse()
        for part in parts:
            inside = self.within({**box, name: part}, others)
            if inside is not None:
                return inside
        return None


def _pick(mask: int, name: str, prefer: Mapping[str, int]) -> int:
    preferred = prefer.get(name)
    return preferred if preferred is not None and mask >> preferred & 1 else find_lowest_bit(mask)


def find_lowest_bit(mask: int) -> int:
    """Return the index of the lowest set bit."""
    return (mask & -mask).bit_length() - 1


class Column(Struct, frozen=True):
    """Cells of a fact in groups of equivalent cells."""

    name: str
    groups: tuple[tuple[int, int], ...]  # an example cell and the mask of each group


def list_columns(names: Sequence[str], tell_apart: Callable[[str, int], Hashable], axes: Axes) -> list[Column]:
    """Return the columns of a sweep.

    Args:
        names: Facts in the order of the sweep.
        tell_apart: Returns a key for a fact and a cell; cells with equal keys are equivalent.
    """
    result = []
    for name in names:
        groups: dict[Hashable, int] = {}
        for cell in list_cells(axes[name].every):
            key = tell_apart(name, cell)
            groups[key] = groups.get(key, 0) | 1 << cell
        result.append(Column(name, tuple((find_lowest_bit(mask), mask) for mask in groups.values())))
    return result


def count_end_states(
    swept: Sequence[Column], start: _State, step: Callable[[_State, int, int], _State]
) -> dict[_State, tuple[int, Point]]:
    """Return the final states of a sweep over all cells, with the number of cells and an example for each.

    Args:
        start: Initial state.
        step: Returns the next state for a state, the index of a column and a cell.

    Raises:
        TooLargeError: There are too many states.
    """
    states: dict[_State, tuple[int, Point]] = {start: (1, {})}
    for number, column in enumerate(swept):
        after: dict[_State, tuple[int, Point]] = {}
        for state, (count, point) in states.items():
            for cell, mask in column.groups:
                new = step(state, number, cell)
                counts = after.get(new)
                many = count * mask.bit_count()
                after[new] = (many, {**point, column.name: cell}) if counts is None else (counts[0] + many, counts[1])
        if len(after) > BUDGET:
            raise TooLargeError
        states = after
    return states


def enumerate_boxes(
    swept: Sequence[Column], start: _State, step: Callable[[_State, int, int], _State],
    answer: Callable[[_State], _Answer | None],
) -> dict[_Answer, list[dict[str, int]]]:  # fmt: skip
    """Return the disjoint boxes of cells that lead to each answer.

    Args:
        start: Initial state.
        step: Returns the next state for a state, the index of a column and a cell.
        answer: Returns the answer of a final state; None to ignore the state.

    Raises:
        TooLargeError: There are too many states.
    """
    memo: dict[tuple[int, _State], dict[_Answer, list[dict[str, int]]]] = {}

    def below(number: int, state: _State) -> dict[_Answer, list[dict[str, int]]]:
        if number == len(swept):
            outcomes = answer(state)
            return {} if outcomes is None else {outcomes: [{}]}
        cached = memo.get((number, state))
        if cached is not None:
            return cached
        if len(memo) > BUDGET:
            raise TooLargeError
        column = swept[number]
        joined: dict[int, tuple[int, dict[_Answer, list[dict[str, int]]]]] = {}
        for cell, mask in column.groups:
            remaining = below(number + 1, step(state, number, cell))
            joined_mask, _ = joined.get(id(remaining), (0, remaining))
            joined[id(remaining)] = joined_mask | mask, remaining
        result: dict[_Answer, list[dict[str, int]]] = {}
        all_cells = sum(mask for _, mask in column.groups)
        for mask, remaining in joined.values():
            for outcomes, parts in remaining.items():
                part = {} if mask == all_cells else {column.name: mask}
                result.setdefault(outcomes, []).extend({**part, **other} for other in parts)
        memo[number, state] = {outcomes: merge_boxes(parts) for outcomes, parts in result.items()}
        return memo[number, state]

    return below(0, start)


def merge_boxes(parts: Iterable[Mapping[str, int]]) -> list[dict[str, int]]:
    """Merge boxes that differ in a single fact, until no two do."""
    todo = [dict(part) for part in parts]
    changed = True
    while changed:
        changed = False
        for name in sorted({name for part in todo for name in part}):
            groups: dict[tuple[tuple[str, int], ...], int] = {}
            for part in todo:
                key = tuple(sorted((n, m) for n, m in part.items() if n != name))
                groups[key] = groups.get(key, 0) | part.get(name, -1)
            if len(groups) < len(todo):
                changed = True
                todo = [{**dict(key), **({name: mask} if mask != -1 else {})} for key, mask in groups.items()]
    return todo
