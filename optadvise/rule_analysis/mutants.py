"""Mutation tests of the rules: proofs and tests must detect deleted rules and widened conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import Range
from optadvise.rule_analysis.reachability import find_read
from optadvise.rule_analysis.rule_tests import list_facts, locate_facts, run_case, run_example
from optadvise.rulebase.case_files import Case
from optadvise.rulebase.proofs import UNPROVEN, check_table, find_conflicts, find_rivals, list_adjusters
from optadvise.rulebase.records import Condition
from optadvise.rulebase.regions import Box, Point, intersect_boxes, make_box
from optadvise.rulebase.table_records import Rule, TableFile
from optadvise.rulebase.tables import Axis, Table, list_cells


class Mutant(Struct, frozen=True):
    """A table with one rule deleted or one condition widened."""

    table: str
    rule: str
    change: str
    file: TableFile  # the changed table
    added: Box | None  # situations that the widened rule additionally accepts; None for a deletion


class Survivor(Struct, frozen=True):
    """A mutant that no proof or test detects."""

    table: str
    rule: str
    change: str
    box: Box  # situations that it decides differently
    excluded: tuple[Box, ...]  # parts of the box without a difference


class MutationReport(Struct, frozen=True):
    """Result of the mutation tests."""

    tried: int
    killed: int
    equivalent: int  # mutants that decide every situation as the original does
    survivors: tuple[Survivor, ...]

    @property
    def noticed_share(self) -> float:
        """Return the detected fraction of the mutants that are not equivalent."""
        different = self.killed + len(self.survivors)
        return self.killed / different if different else 1.0


class _Widening(Struct, frozen=True):
    """Widened condition of a rule."""

    fact: str
    change: str
    when: Mapping[str, Condition]
    added: int  # mask of the added cells


def list_mutants(rules: CompiledRules, table: Table) -> Iterator[Mutant]:
    """Yield the table with each rule deleted, and with each condition widened by each adjacent value."""
    file = rules.catalog.base.tables[table.id]
    for index, rule in enumerate(file.rules):
        before, after = file.rules[:index], file.rules[index + 1 :]
        if before or after:
            remaining = tuple(_without_override(other, rule.id) for other in (*before, *after))
            changed = replace(file, rules=remaining)
            yield Mutant(table=table.id, rule=rule.id, change="deleted", file=changed, added=None)
        box = make_box(rule, rules.axes)
        for widening in _list_widenings(rule, box, rules.axes):
            changed = replace(file, rules=(*before, replace(rule, when=widening.when), *after))
            added = {**box, widening.fact: widening.added}
            yield Mutant(table=table.id, rule=rule.id, change=widening.change, file=changed, added=added)


def _without_override(rule: Rule, overridden: str) -> Rule:
    return replace(rule, overrides=tuple(other for other in rule.overrides if other != overridden))


def _list_widenings(rule: Rule, box: Box, axes: Mapping[str, Axis]) -> Iterator[_Widening]:
    """Yield each condition removed, and widened by one cell."""
    for name, condition in rule.when.items():
        axis = axes[name]
        added = axis.every & ~box[name]
        if added:
            remaining = {key: value for key, value in rule.when.items() if key != name}
            yield _Widening(fact=name, change=f"condition on {name} removed", when=remaining, added=added)
        for cell in _list_adjacent(box[name], axis):
            wider = {**rule.when, name: (*condition, _make_condition(cell, axis))}
            change = f"{name} also accepts {axis.format_cell(cell)}"
            yield _Widening(fact=name, change=change, when=wider, added=1 << cell)


def _list_adjacent(mask: int, axis: Axis) -> list[int]:
    """Return the cells that can be added to a condition: other choices, adjacent cells of a number, unknown."""
    others = list_cells(axis.every & ~mask)
    if axis.choices is not None:
        return others
    numbers = [cell for cell in others if cell != axis.unknown_cell]
    adjacent = [cell for cell in numbers if mask >> cell + 1 & 1 or (cell and mask >> cell - 1 & 1)]
    return adjacent + [cell for cell in others if cell == axis.unknown_cell]


def _make_condition(cell: int, axis: Axis) -> str | Range:
    """Return the condition that accepts one cell."""
    if cell == axis.unknown_cell:
        return "unknown"
    if axis.choices is not None:
        return axis.choices[cell]
    left, right = axis.bounds(cell)
    is_point = left == right
    low = None if left == float("-inf") else left
    return Range(low=low, low_closed=is_point, high=None if right == float("inf") else right, high_closed=is_point)


# -- trying them -------------------------------------------------------------------------------------------------------


def try_mutants(rules: CompiledRules, cases: Sequence[Case]) -> MutationReport:
    """Run the proofs and tests on every mutant."""
    tried = killed = 0
    survivors: list[Survivor] = []
    for table in rules.tables.values():
        tests = _TableTests(rules, table, cases)
        for mutant in list_mutants(rules, table):
            tried += 1
            if _is_noticed(rules, Table(mutant.file, rules.axes), tests):
                killed += 1
                continue
            survivor = _locate_change(rules, table, mutant)
            if _find_point(rules, table, survivor.box, survivor.excluded) is not None:
                survivors.append(survivor)
    equivalent = tried - killed - len(survivors)
    return MutationReport(tried=tried, killed=killed, equivalent=equivalent, survivors=tuple(survivors))


def _locate_change(rules: CompiledRules, table: Table, mutant: Mutant) -> Survivor:
    """Return a mutant with the region that it decides differently."""
    boxes: list[Box] = [make_box(rule, rules.axes) for rule in table.rules]
    index = next(i for i, rule in enumerate(table.rules) if rule.id == mutant.rule)
    box = boxes[index] if mutant.added is None else mutant.added
    # Rules that precede or override the original rule do so in the mutant as well.
    winning = find_rivals(table, index, [*boxes[:index], box, *boxes[index + 1 :]])
    excluded = tuple(boxes[i] for i in winning)
    return Survivor(table=table.id, rule=mutant.rule, change=mutant.change, box=box, excluded=excluded)


class _TableTests:
    """Cases of a table and examples of its rules at their points of the grid."""

    def __init__(self, rules: CompiledRules, table: Table, cases: Sequence[Case]) -> None:
        self._cases = [(case, locate_facts(rules, table, case.given)) for case in cases if case.table == table.id]
        self._examples = {
            rule.id: [(example, locate_facts(rules, table, example.given)) for example in rule.tests]
            for rule in table.all_rules
        }

    def fail(self, mutant: Table) -> bool:
        """Return whether a case or an example fails with the changed table, whose columns are some of the table's."""
        if any(run_case(mutant, case, point).problem is not None for case, point in self._cases):
            return True
        return any(
            run_example(mutant, rule, example, point).problem is not None
            for rule in mutant.all_rules for example, point in self._examples[rule.id]
        )  # fmt: skip


def _is_noticed(rules: CompiledRules, table: Table, tests: _TableTests) -> bool:
    """Return whether a test or a proof fails with the changed table; tests are faster."""
    if tests.fail(table) or _has_conflict(rules, table):
        return True
    return any(finding.kind != UNPROVEN for finding in check_table(table, rules.axes))


def _has_conflict(rules: CompiledRules, table: Table) -> bool:
    if table.kind != "adjust":
        return False
    return next(find_conflicts(list_adjusters(table, rules.axes), rules.axes, table.id), None) is not None


def _find_point(rules: CompiledRules, table: Table, box: Box, excluded: Sequence[Box]) -> Point | None:
    """Return a point of a table's grid in a region that a situation can reach; None without one."""
    point = find_read(rules, table.id, box, excluded)
    if point is None:
        return None
    default = locate_facts(rules, table, {})
    return {name: point.get(name, default[name]) for name in table.columns}


def suggest_cases(rules: CompiledRules, survivors: Sequence[Survivor]) -> Iterator[Case]:
    """Yield test cases that detect the survivors, each case as many as possible."""
    remaining = list(survivors)
    while remaining:
        first, *others = remaining
        table, box, excluded = rules.tables[first.table], first.box, first.excluded
        remaining = []
        for other in others:
            shared = intersect_boxes(box, other.box) if other.table == table.id else None
            both_excluded = (*excluded, *other.excluded)
            if shared is None or _find_point(rules, table, shared, both_excluded) is None:
                remaining.append(other)
            else:
                box, excluded = shared, both_excluded
        point = _find_point(rules, table, box, excluded)
        assert point is not None
        fire = tuple(sorted(rule.id for rule in table.matching(point)))
        yield Case(table=table.id, given=list_facts(rules, table, point), fire=fire)
