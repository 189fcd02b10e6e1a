"""How much do the proofs and tests notice? Rules with one thing changed, each of which should be found out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import Range
from optadvise.core.errors import RuleFileError
from optadvise.rule_analysis.reachability import Chain
from optadvise.rule_analysis.rule_tests import example, placed, rows, written
from optadvise.rulebase.proofs import UNPROVEN, conflicts, findings, rivals
from optadvise.rulebase.records import Case, Rule
from optadvise.rulebase.regions import Box, Point, box_of, cells_of, meet
from optadvise.rulebase.tables import Axis, Table


class Mutant(Struct, frozen=True):
    """A table with one row deleted or one condition widened."""

    table: str
    rule: str
    change: str
    document: Any
    added: dict[str, int] | None  # the box that a widened row takes in besides; None for a deletion


class Survivor(Struct, frozen=True):
    """A change that nothing noticed."""

    table: str
    rule: str
    change: str
    box: Box  # where it decides otherwise
    against: tuple[Box, ...]  # but not here


class Hunt(Struct, frozen=True):
    """The outcome of trying every mutant."""

    tried: int
    killed: int
    alike: int  # no situation tells them from the original, so there is nothing to notice
    survivors: tuple[Survivor, ...]

    @property
    def share(self) -> float:
        """Of the mutants that differ, how many were found out."""
        return self.killed / (self.killed + len(self.survivors)) if self.tried > self.alike else 1.0


def mutants(advisor: CompiledRules, table: Table) -> Iterator[Mutant]:
    """Yield a table with each row deleted, and each condition widened by every value next to it.

    Args:
        advisor: The rules.
        table: A compiled table.
    """
    file = advisor.catalog.base.tables[table.id]
    for index, rule in enumerate(file.rules):
        remaining = file.rules[:index] + file.rules[index + 1 :]
        if remaining:
            rules = tuple(_without_override(other, rule.id) for other in remaining)
            yield Mutant(table.id, rule.id, "deleted", replace(file, rules=rules), None)
        box = box_of(rule, advisor.axes)
        for name, change, when, added in _widened(rule, box, advisor.axes):
            rules = (*file.rules[:index], replace(rule, when=when), *file.rules[index + 1 :])
            yield Mutant(table.id, rule.id, change, replace(file, rules=rules), {**box, name: added})


def _without_override(rule: Rule, overridden: str) -> Rule:
    return replace(rule, overrides=tuple(other for other in rule.overrides if other != overridden))


def _widened(
    rule: Rule, box: Box, axes: Mapping[str, Axis]
) -> Iterator[tuple[str, str, Mapping[str, tuple[str | Range, ...]], int]]:
    """Yield each widening of a condition: the fact, the change in words, the conditions, the cells that are added."""
    for name, condition in rule.when.items():
        axis = axes[name]
        without = {key: value for key, value in rule.when.items() if key != name}
        added = axis.every & ~box[name]
        if added:
            yield name, f"without {name}", without, added
        for cell in _beside(box[name], axis):
            wider = {**rule.when, name: (*condition, _item(cell, axis))}
            yield name, f"{name} takes in {axis.told(cell)}", wider, 1 << cell


def _beside(mask: int, axis: Axis) -> list[int]:
    """Return the cells by which a condition can be widened: every other word, the next stretch of a number."""
    others = cells_of(axis.every & ~mask)
    if axis.words is not None:
        return others
    near = [
        cell for cell in others if cell != axis.unknown and (mask >> cell + 1 & 1 or (cell and mask >> cell - 1 & 1))
    ]
    return near + [cell for cell in others if cell == axis.unknown]


def _item(cell: int, axis: Axis) -> str | Range:
    if cell == axis.unknown:
        return "unknown"
    if axis.words is not None:
        return axis.words[cell]
    left, right = axis.bounds(cell)
    point = left == right
    low = None if left == float("-inf") else left
    return Range(low, point, None if right == float("inf") else right, point)


def hunt(advisor: CompiledRules, cases: Sequence[Case]) -> Hunt:
    """Try every mutant against the proofs and the tests.

    Args:
        advisor: The rules.
        cases: Cases of tables.
    """
    chain = Chain(advisor)
    tried = killed = alike = 0
    survivors: list[Survivor] = []
    for table in advisor.tables.values():
        boxes = [box_of(rule, advisor.axes) for rule in table.rules]
        for mutant in mutants(advisor, table):
            tried += 1
            if _noticed(advisor, Table(mutant.document, advisor.axes), cases):
                killed += 1
                continue
            index = next(i for i, rule in enumerate(table.rules) if rule.id == mutant.rule)
            box = boxes[index] if mutant.added is None else mutant.added
            # What comes before the row in an ordered table, or overrides it, still does.
            over = tuple(boxes[i] for i in rivals(table, index, [*boxes[:index], box, *boxes[index + 1 :]]))
            if _point(chain, table, box, over) is None:
                alike += 1
            else:
                survivors.append(Survivor(table.id, mutant.rule, mutant.change, box, over))
    return Hunt(tried, killed, alike, tuple(survivors))


def suggested(advisor: CompiledRules, survivors: Sequence[Survivor]) -> Iterator[Case]:
    """Yield cases that would notice the survivors, each as many as it can.

    Args:
        advisor: The rules.
        survivors: What nothing noticed.
    """
    chain, left = Chain(advisor), list(survivors)
    while left:
        first, *others = left
        table, box, against = advisor.tables[first.table], first.box, first.against
        left = []
        for other in others:
            both = meet(box, other.box) if other.table == table.id else None
            if both is None or _point(chain, table, both, (*against, *other.against)) is None:
                left.append(other)
            else:
                box, against = both, (*against, *other.against)
        point = _point(chain, table, box, against)
        assert point is not None
        fire = sorted(rule.id for rule in table.matching(point))
        yield Case(table=table.id, given=written(point, advisor, table), fire=tuple(fire))


def _noticed(advisor: CompiledRules, table: Table, cases: Sequence[Case]) -> bool:
    if any(finding.kind != UNPROVEN for finding in findings(table, advisor.axes)):
        return True
    if table.kind == "adjust":
        steps = [(r.id, r.at, box_of(r, advisor.axes), r.steps) for r in table.rules]
        if next(conflicts(steps, advisor.axes, table.id), None) is not None:
            return True
    for case in cases:
        if case.table == table.id:
            try:
                found = table.matching(placed(advisor, table, case.given))
            except RuleFileError:
                return True
            if sorted(rule.id for rule in found) != sorted(case.fire):
                return True
    return any(example(advisor, table, rule, test)[1] is not None for rule in rows(table) for test in rule.tests)


def _point(chain: Chain, table: Table, box: Box, against: Sequence[Box]) -> Point | None:
    """Return a point of the table's grid in a region that a situation leads to."""
    point = chain.reading(table.id, box, against)
    if point is None:
        return None
    usual = placed(chain.advisor, table, {})
    return {name: point.get(name, usual[name]) for name in table.columns}
