"""Decision tables with conditions on facts, compiled to bit masks.

The thresholds of all rules divide each fact into a finite number of cells, so a situation is a point in a finite grid,
and one AND per column finds the rules that apply. Proofs over the cells hold for every number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from optadvise.core.cards import UNKNOWN, Range
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError
from optadvise.rulebase.records import Condition, Fact
from optadvise.rulebase.table_records import Rule, TableFile


def list_cells(mask: int) -> list[int]:
    """Return the indices of the set bits."""
    return [cell for cell in range(mask.bit_length()) if mask >> cell & 1]


class Axis:
    """Fact divided into cells: its choices, or its thresholds and the open intervals between them; last, unknown."""

    def __init__(self, fact: Fact, conditions: Iterable[Condition]) -> None:
        """Divide a fact into cells.

        Args:
            conditions: All conditions of rules on the fact.
        """
        self.name = fact.id
        self.choices: tuple[str, ...] | None = None if fact.values is None else tuple(fact.values)
        ranges = [item for condition in conditions for item in condition if isinstance(item, Range)]
        self.cuts = sorted({bound for item in ranges for bound in (item.low, item.high) if bound is not None})
        self.unknown_cell = len(self.choices) if self.choices is not None else 2 * len(self.cuts) + 1
        self.every = self._every(fact.unknown)  # a mask
        self._index = {choice: i for i, choice in enumerate(self.choices or ())}
        self._cell_of: dict[Any, int] = {**self._index, None: self.unknown_cell}
        if self.choices == ("true", "false"):
            self._cell_of |= {True: 0, False: 1}

    def _every(self, may_be_unknown: bool) -> int:
        """Return the mask of possible cells; a cell between thresholds such as 8 and 9 has no whole number."""
        is_choice = self.choices is not None
        cells = sum(1 << cell for cell in range(self.unknown_cell) if is_choice or self.has_whole_number(cell))
        return cells | may_be_unknown << self.unknown_cell

    def has_whole_number(self, cell: int) -> bool:
        """Return whether a numeric cell contains a positive whole number, because all numeric facts are counts."""
        left, right = self.bounds(cell)
        if left == right:
            return left >= 1 and left == int(left)
        return max(left, 0.0) // 1 + 1 < right

    def cell(self, value: Any) -> int:
        """Return the cell of a value; None is in the last cell."""
        if self.choices is not None or value is None:
            return self._cell_of[value]
        position = bisect_left(self.cuts, value)
        return 2 * position + (position < len(self.cuts) and self.cuts[position] == value)

    def accepted(self, condition: Condition) -> int:
        """Return the cells that a condition accepts, as a bit mask."""
        mask = 0
        for item in condition:
            if item == UNKNOWN:
                mask |= 1 << self.unknown_cell
            elif isinstance(item, Range):
                mask |= self._between(item)
            else:
                mask |= 1 << self._index[item]
        return mask

    def _between(self, accepted: Range) -> int:
        """Return the mask of an interval between thresholds."""
        low, high = accepted.low, accepted.high
        first = 0 if low is None else 2 * bisect_left(self.cuts, low) + (1 if accepted.low_closed else 2)
        last = 2 * len(self.cuts) if high is None else 2 * bisect_left(self.cuts, high) + accepted.high_closed
        return (1 << last + 1) - (1 << first) if first <= last else 0

    def bounds(self, cell: int) -> tuple[float, float]:
        """Return the bounds of a numeric cell: equal for a threshold, otherwise those of an open interval."""
        position = cell // 2
        if cell % 2:
            return self.cuts[position], self.cuts[position]
        left = self.cuts[position - 1] if position else float("-inf")
        right = self.cuts[position] if position < len(self.cuts) else float("inf")
        return left, right

    def sample_value(self, cell: int) -> float:
        """Return a value inside a numeric cell."""
        left, right = self.bounds(cell)
        if left == float("-inf"):
            return max(1.0, right // 2)
        if left == right:
            return left
        return left // 1 + 1 if right == float("inf") else max((left + right) // 2, left // 1 + 1)

    def format_cell(self, cell: int) -> str:
        """Return a cell as text: a choice, a number inside the cell, or `unknown`."""
        if cell == self.unknown_cell:
            return UNKNOWN
        return f"{self.sample_value(cell):.0f}" if self.choices is None else self.choices[cell]


class Table:
    """Compiled decision table."""

    def __init__(self, table: TableFile, axes: Mapping[str, Axis]) -> None:
        """Compile a table."""
        self.id = table.table
        self.kind = table.kind
        self.hit_policy = table.hit_policy
        self.output = table.output
        self.about = table.about
        self.rules = table.rules
        self.otherwise = table.otherwise
        self.all_rules = table.all_rules
        self.columns = tuple(sorted({fact for rule in self.rules for fact in rule.when}))
        self._axes = axes
        self._masks = {column: self._column(column) for column in self.columns}
        self._in_order = tuple(self._masks.items())
        self._all = (1 << len(self.rules)) - 1
        self._alone = [(rule,) for rule in self.rules]
        self.beats = self._precedence()

    def _column(self, column: str) -> list[int]:
        axis = self._axes[column]
        masks = [0] * (axis.unknown_cell + 1)
        always = 0
        for number, rule in enumerate(self.rules):
            condition = rule.when.get(column)
            if condition is None:
                always |= 1 << number
                continue
            for cell in list_cells(axis.accepted(condition)):
                masks[cell] |= 1 << number
        return [mask | always for mask in masks]

    def _precedence(self) -> list[int]:
        """Return for each rule the mask of the rules that it overrides, directly or through other rules."""
        number = {rule.id: i for i, rule in enumerate(self.rules)}
        direct = [[number[name] for name in rule.overrides if name in number] for rule in self.rules]
        beaten = []
        for start in direct:
            visited, todo = 0, list(start)
            while todo:
                other = todo.pop()
                if not visited >> other & 1:
                    visited |= 1 << other
                    todo += direct[other]
            beaten.append(visited)
        return beaten

    def column(self, name: str) -> list[int]:
        """Return for each cell of a fact the mask of the rules that accept it."""
        return self._masks[name]

    def matching(self, cells: Mapping[str, int]) -> tuple[Rule, ...]:
        """Return the rules that decide at a point of the grid.

        Returns:
            All rules that apply for `collect`; otherwise one rule, or `otherwise` if no rule applies.

        Raises:
            RuleFileError: No rule applies and the table has no `otherwise`, or rules overlap without an override.
        """
        mask = self._all
        for column, masks in self._in_order:
            mask &= masks[cells[column]]
        if mask and self.hit_policy != "collect":
            lowest = mask & -mask
            if self.hit_policy == "first" or lowest == mask:  # common case
                return self._alone[lowest.bit_length() - 1]
        matches = []
        while mask:  # few of thousands of rules apply
            last = mask & -mask
            matches.append(last.bit_length() - 1)
            mask ^= last
        if self.hit_policy == "collect":
            return tuple(self.rules[i] for i in matches)
        if not matches:
            if self.otherwise is None:
                message = f"table {self.id!r} has no rule for this situation and no `otherwise`"
                raise RuleFileError(message, code=ErrorCode.RULE_GAP)
            return (self.otherwise,)
        if self.hit_policy == "first" or len(matches) == 1:
            return (self.rules[matches[0]],)
        winners = [i for i in matches if all(i == j or self.beats[i] >> j & 1 for j in matches)]
        if len(winners) != 1:
            names = " and ".join(self.rules[i].id for i in matches)
            message = f"rules {names} of table {self.id!r} apply at the same time; add `overrides` to one"
            raise RuleFileError(message, code=ErrorCode.RULE_CONFLICT)
        return (self.rules[winners[0]],)

    def winner(self, cells: Mapping[str, int]) -> Rule:
        """Return the rule that decides; for `unique` and `first` tables."""
        return self.matching(cells)[0]


def cut_axes(facts: Mapping[str, Fact], conditions: Iterable[Mapping[str, Condition]]) -> dict[str, Axis]:
    """Divide all facts into cells at the thresholds of all conditions."""
    used: dict[str, list[Condition]] = {name: [] for name in facts}
    for when in conditions:
        for name, condition in when.items():
            used[name].append(condition)
    return {name: Axis(fact, used[name]) for name, fact in facts.items()}
