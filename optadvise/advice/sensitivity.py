"""Where the answer would change: for each fact, the nearest value after which another optimizer is named.

One fact is changed at a time, and every stretch of its axis that the deciding tables tell apart is tried, so for single
changes the list is complete. Where memory decides, the threshold is solved for instead of searched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from optadvise.core.records import Sensitivity, Situation
from optadvise.core.units import show_bytes, show_count
from optadvise.memory import INPUTS
from optadvise.rulebase.defaults import Completer
from optadvise.rulebase.tables import Axis, Rule, Table

_COST = {"free": 0, "cheap": 1, "costly": 2, "fixed": 3}
_MEMO_SIZE = 4096
_ALL = ""  # under which a point's flips are remembered together
_SOLVED = ("params", "vram_bytes")  # no deciding table cuts these; memory pressure does


class Decider(Protocol):
    """What flips need of the advisor."""

    axes: dict[str, Axis]
    completer: Completer

    @property
    def tables(self) -> dict[str, Table]:
        """The decision tables."""

    @property
    def deciding(self) -> tuple[str, ...]:
        """The facts that decide about the optimizer."""

    @property
    def catalog(self) -> Any:
        """The catalogue."""

    def decide_at(self, point: tuple[int, ...]) -> tuple[Rule, Rule]:
        """The deciding rules at the cells of the deciding facts."""

    def changed(self, situation: Situation, changes: dict[str, Any]) -> Situation:
        """The situation after changes."""

    def pressure(self, situation: Situation) -> str:
        """The derived fact `memory`."""

    def needs(self, situation: Situation) -> list[int]:
        """The memory from which on the usual, and the compact optimizer fit."""

    def largest(self, situation: Situation) -> list[int]:
        """The sizes up to which the usual, and the compact optimizer fit."""


class _Probe(Struct, frozen=True):
    """A fact to change, and what to change it to."""

    name: str
    axis: Axis
    fixed: bool  # nobody changes it for an optimizer's sake
    column: bool  # a deciding table reads it
    resizes: bool  # the memory arithmetic reads it
    tries: tuple[tuple[int, int, Any], ...]  # first cell, last cell, a value inside


class FlipFinder:
    """Knows which stretches of each axis the deciding tables tell apart."""

    def __init__(self, advisor: Decider) -> None:
        """Prepare what to try, the facts that are easiest to change first."""
        self._advisor = advisor
        self._memo: dict[tuple[Any, ...], dict[str, tuple[Sensitivity, ...]]] = {}
        self._heeding: dict[tuple[int, ...], bool] = {}
        self._reads = tuple(sorted({*advisor.deciding, *advisor.completer.reads}))
        self._position = {name: i for i, name in enumerate(advisor.deciding)}
        deciding = [advisor.tables["concern"], advisor.tables["choose_optimizer"]]
        probes: list[tuple[int, _Probe]] = []
        for name, fact in advisor.catalog.facts.items():
            columns = [t.column(name) for t in deciding if name in t.columns]
            resizes = name in INPUTS
            if "flag" not in fact or not (columns or resizes or name in advisor.completer.triggers):
                continue
            axis, change = advisor.axes[name], fact.get("change", "fixed")
            if axis.words is None and not axis.cuts and name not in _SOLVED:
                continue  # no rule tells its values apart, and what memory makes of them is for `estimate`
            fixed = change == "fixed" and name not in ("stability",)
            probe = _Probe(name, axis, fixed, bool(columns), resizes, tuple(_tries(axis, columns)))
            probes.append((_COST[change], probe))
        self._probes = [probe for _, probe in sorted(probes, key=lambda row: row[0])]

    def find(self, situation: Situation, cells: Mapping[str, int], current: str) -> tuple[Sensitivity, ...]:
        """Return the single changes that lead to another optimizer, the easiest to make first.

        Args:
            situation: The situation that was answered.
            cells: Its point of the grid.
            current: The optimizer that was chosen.
        """
        point = [cells[name] for name in self._advisor.deciding]
        sized = situation.params is not None and situation.vram_bytes is not None
        # Without the memory arithmetic a change depends on cells alone, so it is worked out once for each point.
        key = (current, situation.assumed, *[cells[name] for name in self._reads])
        known = self._memo.get(key)
        if known is None:
            known = self._memo[key] = {}
            if len(self._memo) > _MEMO_SIZE:
                self._memo.pop(next(iter(self._memo)))
        free = situation.params is None and situation.vram_bytes is None  # nothing to put to the arithmetic
        if free and _ALL in known:
            return known[_ALL]
        flips: list[Sensitivity] = []
        for probe in self._probes:
            if probe.fixed and probe.name not in situation.assumed:
                continue
            if probe.name in _SOLVED:
                flips += self._solved(situation, point, current, probe)
            elif probe.resizes and sized:
                flips += self._try(situation, point, current, probe)
            elif probe.column or not probe.resizes:
                found = known.get(probe.name)
                if found is None:
                    found = known[probe.name] = tuple(self._try(situation, point, current, probe))
                flips += found
        if free:
            known[_ALL] = tuple(flips)
        return tuple(flips)

    def _try(self, situation: Situation, point: Sequence[int], current: str, probe: _Probe) -> Iterator[Sensitivity]:
        search = self._words if probe.axis.words is not None else self._numbers
        for change, optimizer in search(situation, point, current, probe):
            yield Sensitivity({probe.name: change}, optimizer)

    def _words(
        self, situation: Situation, point: Sequence[int], current: str, probe: _Probe
    ) -> Iterator[tuple[str, str]]:
        words = probe.axis.words or ()
        here = probe.axis.cell(getattr(situation, probe.name))
        found: dict[str, list[str]] = {}
        for cell, _, value in probe.tries:
            if cell == here:
                continue
            other = self._answer(situation, point, probe, value, cell)
            if other is not None and other != current:
                found.setdefault(other, []).append(words[cell])
        for optimizer, named in found.items():
            yield ", ".join(named), optimizer

    def _numbers(
        self, situation: Situation, point: Sequence[int], current: str, probe: _Probe
    ) -> Iterator[tuple[str, str]]:
        axis, tries = probe.axis, probe.tries
        value = getattr(situation, probe.name)
        here = -1 if value is None else axis.cell(value)
        at = next((i for i, (first, last, _) in enumerate(tries) if first <= here <= last), None)
        answers = [
            current if i == at else self._answer(situation, point, probe, inside, first) or current
            for i, (first, _, inside) in enumerate(tries)
        ]
        differing = [i for i, answer in enumerate(answers) if answer != current]
        below = [i for i in differing if at is None or i < at]
        above = [i for i in differing if at is not None and i > at]
        if at is None:  # not known: the stretch at each end of the axis
            above = [i for i in below if i > 0 and set(answers[i:]) == {answers[i]}]
            below = below[:1] if below and below[0] == 0 else []
        if below:
            yield axis.upper(tries[below[-1]][1]), answers[below[-1]]
        if above:
            yield axis.lower(tries[above[0]][0]), answers[above[0]]

    def _answer(self, situation: Situation, point: Sequence[int], probe: _Probe, value: Any, cell: int) -> str | None:
        """Return the optimizer after one change; None where the change contradicts what else was said."""
        advisor = self._advisor
        changed = advisor.completer.follow(situation, probe.name, value)
        if changed is None:
            return None
        moved = list(point)
        resizes = probe.resizes
        for fact, new in changed.items():
            position = self._position.get(fact)
            if position is not None:
                moved[position] = cell if fact == probe.name else advisor.axes[fact].cell(new)
            resizes = resizes or fact in INPUTS
        solved = probe.name in _SOLVED
        sized = solved or (situation.params is not None and situation.vram_bytes is not None)
        if resizes and sized and self._heeds_memory(moved):
            self._press(moved, advisor.changed(situation, changed))
        return str(advisor.decide_at(tuple(moved))[1].then["optimizer"])

    def _heeds_memory(self, point: Sequence[int]) -> bool:
        """Does the answer at a point depend on memory pressure at all?"""
        position = self._position.get("memory")
        if position is None:
            return False
        tried = list(point)
        tried[position] = 0
        key = tuple(tried)
        known = self._heeding.get(key)
        if known is None:
            answers = set()
            for cell in range(self._advisor.axes["memory"].unknown):
                tried[position] = cell
                answers.add(self._advisor.decide_at(tuple(tried))[1].then["optimizer"])
            known = self._heeding[key] = len(answers) > 1
        return known

    def _press(self, point: list[int], situation: Situation) -> None:
        position = self._position.get("memory")
        if position is not None:
            point[position] = self._advisor.axes["memory"].cell(self._advisor.pressure(situation))

    def _solved(self, situation: Situation, point: Sequence[int], current: str, probe: _Probe) -> Iterator[Sensitivity]:
        """Try the values at which memory pressure changes, those above and those below the present one."""
        name = probe.name
        if situation.method != "full" or not (self._heeds_memory(point) or name in self._advisor.completer.triggers):
            return
        if name == "params" and situation.shape is not None:
            return  # the size follows from the shape
        advisor = self._advisor
        here = getattr(situation, name)
        if name == "vram_bytes":
            needs = advisor.needs(situation)
            edges = sorted((n, f"at least {show_bytes(n)}", f"under {show_bytes(n)}") for n in needs)
            edges = edges or ([(2, "", "any limit")] if here is None else [])
        else:
            # Some assumptions change with the size as well.
            cuts = [(int(c), f"at least {show_count(c)}", f"under {show_count(c)}") for c in advisor.axes[name].cuts]
            sizes = [n for n in advisor.largest(situation) if n > 0]
            edges = sorted([*cuts, *((n + 1, f"over {show_count(n)}", f"up to {show_count(n)}") for n in sizes)])
        if here is None:
            ups, downs = [], _tellable(edges[::-1])
            downs = downs[:1] if name == "vram_bytes" else downs
        else:
            ups = _tellable([edge for edge in edges if edge[0] > here])
            downs = _tellable([edge for edge in reversed(edges) if edge[0] <= here])
        for below, side in ((0, ups), (1, downs)):
            for edge in side:
                value = edge[0] - below
                other = self._answer(situation, point, probe, value, advisor.axes[name].cell(value))
                if other is not None and other != current:
                    yield Sensitivity({name: edge[2] if below else edge[1]}, other)
                    break


def _tellable(edges: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Return the edges without those that read like the one behind them, between which nobody could stop."""
    words = [edge[1:] for edge in edges]
    return [edge for index, edge in enumerate(edges) if edge[1:] not in words[index + 1 :]]


def _tries(axis: Axis, columns: list[list[int]]) -> Iterator[tuple[int, int, Any]]:
    """Yield each word, or each run of numeric cells that no deciding table tells apart."""
    if axis.words is not None:
        flag = axis.words == ("true", "false")
        for cell, word in enumerate(axis.words):
            yield cell, cell, word == "true" if flag else word
        return
    for first, last in stretches(axis, columns):
        yield first, last, axis.inside(first)


def stretches(axis: Axis, columns: list[list[int]]) -> list[tuple[int, int]]:
    """Return the first and last cell of each run of numeric cells that no column tells apart.

    Args:
        axis: A numeric fact's axis.
        columns: For tables that read the fact, the rows that accept each cell.
    """
    found, first = [], 0
    for cell in range(1, axis.unknown + 1):
        if cell == axis.unknown or any(column[cell] != column[first] for column in columns):
            found.append((first, cell - 1))
            first = cell
    return found
