"""Decision tables: conditions on facts, compiled to bit masks.

Each fact is an axis that the rules' thresholds cut into finitely many cells, so a situation is a point in a finite grid
and "which rules apply" is one AND per column. What holds for the cells holds for every number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from optadvise.core.errors import RuleFileError
from optadvise.core.records import SHIPPED, UNKNOWN


class Rule(Struct, frozen=True):
    """One row of a table."""

    id: str
    name: str
    table: str
    when: Mapping[str, Sequence[Any]]
    then: Mapping[str, Any]
    because: str
    cite: tuple[str, ...]
    overrides: tuple[str, ...]
    tests: tuple[Mapping[str, Any], ...]
    at: str
    layer: str = SHIPPED


class Axis:
    """A fact cut into cells: its words, or the points and open intervals between its thresholds; last, not known."""

    def __init__(self, fact: Mapping[str, Any], conditions: Iterable[Sequence[Any]]) -> None:
        """Cut the axis.

        Args:
            fact: The fact's declaration.
            conditions: Every condition that a rule puts on it.
        """
        self.name: str = fact["id"]
        self.words: tuple[str, ...] | None = tuple(fact["values"]) if "values" in fact else None
        bounds = {b for c in conditions for r in c if isinstance(r, list) for b in (r[0], r[2]) if b is not None}
        self.cuts: list[float] = sorted(bounds)
        self.unknown = len(self.words) if self.words is not None else 2 * len(self.cuts) + 1
        self.every = self._every(bool(fact.get("unknown")))
        self._index = {word: i for i, word in enumerate(self.words or ())}
        self._cell_of: dict[Any, int] = {**self._index, None: self.unknown}
        if self.words == ("true", "false"):
            self._cell_of |= {True: 0, False: 1}

    def _every(self, may_be_unknown: bool) -> int:
        """Return the cells that a situation can lie in; between thresholds such as 8 and 9 there is no count."""
        words = self.words is not None
        known = sum(1 << cell for cell in range(self.unknown) if words or self.holds_a_count(cell))
        return known | may_be_unknown << self.unknown

    def holds_a_count(self, cell: int) -> bool:
        """Does a numeric cell hold a whole number above zero? All numeric facts are counts."""
        left, right = self.bounds(cell)
        if left == right:
            return left >= 1 and left == int(left)
        return max(left, 0.0) // 1 + 1 < right

    def cell(self, value: Any) -> int:
        """Return the cell that a value lies in; None lies in the last."""
        if self.words is not None or value is None:
            return self._cell_of[value]
        position = bisect_left(self.cuts, value)
        return 2 * position + (position < len(self.cuts) and self.cuts[position] == value)

    def accepted(self, condition: Sequence[Any]) -> int:
        """Return the cells that a condition accepts, as a bit mask."""
        mask = 0
        for item in condition:
            if item == UNKNOWN:
                mask |= 1 << self.unknown
            elif isinstance(item, list):
                mask |= self._between(*item)
            else:
                mask |= 1 << self._index[item]
        return mask

    def _between(self, low: float | None, low_closed: bool, high: float | None, high_closed: bool) -> int:
        """Return the cells of an interval whose ends are cuts."""
        first = 0 if low is None else 2 * bisect_left(self.cuts, low) + (1 if low_closed else 2)
        last = 2 * len(self.cuts) if high is None else 2 * bisect_left(self.cuts, high) + (1 if high_closed else 0)
        return (1 << last + 1) - (1 << first) if first <= last else 0

    def bounds(self, cell: int) -> tuple[float, float]:
        """Return the ends of a numeric cell; equal ends are a point, other cells are open."""
        position = cell // 2
        if cell % 2:
            return self.cuts[position], self.cuts[position]
        left = self.cuts[position - 1] if position else float("-inf")
        right = self.cuts[position] if position < len(self.cuts) else float("inf")
        return left, right

    def inside(self, cell: int) -> float:
        """Return a value that lies in a numeric cell."""
        left, right = self.bounds(cell)
        if left == float("-inf"):
            return max(1.0, right // 2)
        if left == right:
            return left
        return left // 1 + 1 if right == float("inf") else max((left + right) // 2, left // 1 + 1)

    def told(self, cell: int) -> str:
        """Write a cell as a value: a word, a number inside it, or `unknown`."""
        if cell == self.unknown:
            return UNKNOWN
        return f"{self.inside(cell):.0f}" if self.words is None else self.words[cell]

    def upper(self, cell: int) -> str:
        """Write everything up to the end of a numeric cell as a condition."""
        left, right = self.bounds(cell)
        return f"<= {right:g}" if left == right else f"< {right:g}"

    def lower(self, cell: int) -> str:
        """Write everything from the start of a numeric cell as a condition."""
        left, right = self.bounds(cell)
        return f">= {left:g}" if left == right else f"> {left:g}"


class Table:
    """A decision table, compiled."""

    def __init__(self, document: Mapping[str, Any], axes: Mapping[str, Axis]) -> None:
        """Compile a table read from the rules.

        Args:
            document: The table as the catalogue read it.
            axes: Every fact's axis.
        """
        self.id: str = document["table"]
        self.kind: str = document["kind"]
        self.hit: str = document["hit"]
        self.gives: str | None = document.get("gives")
        self.about: str = document["about"]
        self.rules = tuple(_rule(entry, self.id) for entry in document["rules"])
        self.otherwise = _rule(document["otherwise"], self.id) if "otherwise" in document else None
        self.columns = tuple(sorted({fact for rule in self.rules for fact in rule.when}))
        self._axes = axes
        self._masks = {column: self._column(column) for column in self.columns}
        self._in_order = tuple(self._masks.items())
        self._all = (1 << len(self.rules)) - 1
        self._alone = [(rule,) for rule in self.rules]
        self.beats = self._precedence()

    def _column(self, column: str) -> list[int]:
        axis = self._axes[column]
        masks = [0] * (axis.unknown + 1)
        always = 0
        for number, rule in enumerate(self.rules):
            condition = rule.when.get(column)
            if condition is None:
                always |= 1 << number
                continue
            accepted, cell = axis.accepted(condition), 0
            while accepted:
                skip = (accepted & -accepted).bit_length() - 1
                cell += skip
                masks[cell] |= 1 << number
                accepted >>= skip + 1
                cell += 1
        return [mask | always for mask in masks]

    def _precedence(self) -> list[int]:
        """Return, for each rule, the rules it overrides, directly or through others."""
        number = {rule.id: i for i, rule in enumerate(self.rules)}
        direct = [[number[name] for name in rule.overrides if name in number] for rule in self.rules]
        found = []
        for start in direct:
            seen, todo = 0, list(start)
            while todo:
                other = todo.pop()
                if not seen >> other & 1:
                    seen |= 1 << other
                    todo += direct[other]
            found.append(seen)
        return found

    def column(self, name: str) -> list[int]:
        """Return, for each cell of a fact, the rules that accept it as a bit mask."""
        return self._masks[name]

    def matching(self, cells: Mapping[str, int]) -> tuple[Rule, ...]:
        """Return the rules that decide at a point of the grid.

        One rule for `unique` and `first` (the `otherwise` where no row applies), all that apply for `collect`.

        Raises:
            RuleFileError: No row applies and there is no `otherwise`, or two rows apply and neither overrides.
        """
        mask = self._all
        for column, masks in self._in_order:
            mask &= masks[cells[column]]
        if mask and self.hit != "collect":
            lowest = mask & -mask
            if self.hit == "first" or lowest == mask:  # the usual case needs no list
                return self._alone[lowest.bit_length() - 1]
        found = []
        while mask:  # of thousands of rows few apply
            last = mask & -mask
            found.append(last.bit_length() - 1)
            mask ^= last
        if self.hit == "collect":
            return tuple(self.rules[i] for i in found)
        if not found:
            if self.otherwise is None:
                raise RuleFileError(f"table {self.id!r} has no row for this situation and no `otherwise`")
            return (self.otherwise,)
        if self.hit == "first" or len(found) == 1:
            return (self.rules[found[0]],)
        winners = [i for i in found if all(i == j or self.beats[i] >> j & 1 for j in found)]
        if len(winners) != 1:
            names = " and ".join(self.rules[i].id for i in found)
            raise RuleFileError(f"rules {names} of table {self.id!r} both apply; let one override the other")
        return (self.rules[winners[0]],)

    def winner(self, cells: Mapping[str, int]) -> Rule:
        """Return the one rule that decides; for `unique` and `first` tables."""
        return self.matching(cells)[0]


def _rule(entry: Mapping[str, Any], table: str) -> Rule:
    return Rule(
        id=entry["id"],
        name=entry.get("name", "otherwise"),
        table=table,
        when=entry.get("when", {}),
        then=entry["then"],
        because=entry.get("because") or entry["then"].get("text", ""),
        cite=tuple(entry["cite"]),
        overrides=tuple(entry.get("overrides", ())),
        tests=tuple(entry.get("tests", ())),
        at=entry["at"],
        layer=entry.get("layer", SHIPPED),
    )


def cut_axes(
    facts: Mapping[str, Mapping[str, Any]], conditions: Iterable[Mapping[str, Sequence[Any]]]
) -> dict[str, Axis]:
    """Cut every fact's axis at the thresholds of all conditions.

    Args:
        facts: The declared facts.
        conditions: Every `when` there is.
    """
    used: dict[str, list[Sequence[Any]]] = {name: [] for name in facts}
    for when in conditions:
        for name, condition in when.items():
            used[name].append(condition)
    return {name: Axis(fact, used[name]) for name, fact in facts.items()}
