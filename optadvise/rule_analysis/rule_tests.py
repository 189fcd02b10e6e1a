"""Tests in the rule files: the examples of each rule, and the cases of each table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import FactValue
from optadvise.core.errors import RuleFileError
from optadvise.core.records import SITUATION_DEFAULTS
from optadvise.rulebase.case_files import Case
from optadvise.rulebase.hyperparameters import set_by
from optadvise.rulebase.regions import Point
from optadvise.rulebase.table_records import Example, Rule
from optadvise.rulebase.tables import Table


class Failure(Struct, frozen=True):
    """A failed test."""

    rule: str  # id of the rule; for a case, the table
    at: str  # file:line:column
    text: str


class RuleTestReport(Struct, frozen=True):
    """Result of all tests."""

    ran: int
    failures: tuple[Failure, ...]
    overruled: int  # failed tests of a layer whose rules a later layer changes
    untested: tuple[str, ...]  # rules without an example in which they apply
    silent: tuple[str, ...]  # rules that apply in no test

    @property
    def passed(self) -> bool:
        """Return whether tests ran and all passed."""
        return bool(self.ran) and not (self.failures or self.untested or self.silent)


class Outcome(Struct, frozen=True):
    """Result of one test."""

    fired: tuple[str, ...]  # ids of the rules that apply
    problem: str | None  # None if the test passes


class _Test(Struct, frozen=True):
    """A test with its result."""

    rule: str  # id of the rule; for a case, the table
    at: str  # file:line:column
    layer: str  # layer of the test
    rules: frozenset[str]  # ids of the rules that apply or are expected to
    outcome: Outcome


def run_tests(rules: CompiledRules, cases: Sequence[Case] = ()) -> RuleTestReport:
    """Run the examples of all rules, and cases."""
    tests = [test for table in rules.tables.values() for test in _run_table(rules, table, cases)]
    layers = {rule.id: rule.layer for table in rules.tables.values() for rule in table.all_rules}
    broken = [test for test in tests if test.outcome.problem is not None]
    failing = [test for test in broken if not _is_overruled(rules, test, layers)]
    failures = [Failure(rule=test.rule, at=test.at, text=test.outcome.problem or "") for test in failing]
    failures += [
        Failure(rule=case.table, at=case.at, text=f"table {case.table!r} does not exist")
        for case in cases if case.table not in rules.tables
    ]  # fmt: skip
    fired = {rule for test in tests for rule in test.outcome.fired}
    all_rules = [rule for table in rules.tables.values() for rule in table.all_rules]
    return RuleTestReport(
        ran=len(tests),
        failures=tuple(failures),
        overruled=len(broken) - len(failing),
        untested=tuple(rule.id for rule in all_rules if not _has_firing_example(rule)),
        silent=tuple(rule.id for rule in all_rules if rule.id not in fired and rule.layer == all_rules[0].layer),
    )


def _has_firing_example(rule: Rule) -> bool:
    return any(test.expect.get("fires", True) for test in rule.tests)


def _run_table(rules: CompiledRules, table: Table, cases: Iterable[Case]) -> Iterator[_Test]:
    """Run the cases of a table, then the examples of its rules."""
    for case in cases:
        if case.table == table.id:
            outcome = run_case(table, case, locate_facts(rules, table, case.given))
            involved = frozenset((*outcome.fired, *case.fire))
            yield _Test(rule=table.id, at=case.at, layer=case.layer, rules=involved, outcome=outcome)
    for rule in table.all_rules:
        for example in rule.tests:
            outcome = run_example(table, rule, example, locate_facts(rules, table, example.given))
            at, involved = example.at or rule.at, frozenset(outcome.fired)
            yield _Test(rule=rule.id, at=at, layer=rule.layer, rules=involved, outcome=outcome)


def _is_overruled(rules: CompiledRules, test: _Test, layers: Mapping[str, str]) -> bool:
    """Return whether a test involves a rule that a later layer adds, changes or removes."""
    order = {name: number for number, name in enumerate(rules.catalog.layers)}
    numbers = (order.get(layers.get(rule, ""), len(order)) for rule in test.rules)
    return any(number > order.get(test.layer, 0) for number in numbers)


def run_example(table: Table, rule: Rule, example: Example, point: Point) -> Outcome:
    """Run an example of a rule.

    Args:
        table: The rule's table, or a mutant of it.
        point: Cells of the example's facts, from `locate_facts`.
    """
    try:
        matching = table.matching(point)
    except RuleFileError as error:
        return Outcome(fired=(), problem=str(error))
    fired = tuple(row.id for row in matching)
    return Outcome(fired=fired, problem=_compare(table, rule, example, fired))


def _compare(table: Table, rule: Rule, example: Example, fired: Sequence[str]) -> str | None:
    """Return how the rules that apply differ from what an example expects; None if they do not differ."""
    if "fires" in example.expect:
        fires = rule.id in fired
        problem = f"{rule.id} {'applies' if fires else 'does not apply'}"
        return None if fires == example.expect["fires"] else problem
    if list(fired) != [rule.id]:
        return f"expected rule {rule.id}, found {' and '.join(fired) or 'none'}"
    values = rule.outcome
    if table.kind == "set":
        values["value"] = set_by(rule, str(table.output), example.given).value
    wrong = [
        f"expected {name} {value!r}, found {values.get(name)!r}"
        for name, value in example.expect.items() if values.get(name) != value
    ]  # fmt: skip
    return "; ".join(wrong) or None


def run_case(table: Table, case: Case, point: Point) -> Outcome:
    """Run a case of a table or of its mutant.

    Args:
        point: Cells of the case's facts, from `locate_facts`.
    """
    try:
        fired = sorted(rule.id for rule in table.matching(point))
    except RuleFileError as error:
        return Outcome(fired=(), problem=str(error))
    if fired == sorted(case.fire):
        return Outcome(fired=tuple(fired), problem=None)
    expected, actual = ", ".join(sorted(case.fire)) or "none", ", ".join(fired) or "none"
    return Outcome(fired=tuple(fired), problem=f"expected {expected}, found {actual}")


def locate_facts(rules: CompiledRules, table: Table, facts: Mapping[str, FactValue]) -> Point:
    """Return the point of a table's grid for a test's facts and the defaults of all other facts.

    Args:
        facts: Values by fact; None for unknown.
    """
    completed = rules.defaults.fill({name: value for name, value in facts.items() if value is not None})
    point = {}
    for name in table.columns:
        axis = rules.axes[name]
        value = facts.get(name, completed.get(name, SITUATION_DEFAULTS.get(name)))
        if value is None and name not in facts and axis.choices and not axis.every >> axis.unknown_cell & 1:
            value = "false" if "false" in axis.choices else axis.choices[0]
        point[name] = axis.cell(value)
    return point


def list_facts(rules: CompiledRules, table: Table, point: Point) -> dict[str, FactValue]:
    """Return the facts that a case needs to reach a point, without those that equal their defaults.

    Args:
        point: A cell for each column of the table.
    """
    facts: dict[str, FactValue] = {}
    for name, cell in point.items():
        axis = rules.axes[name]
        if cell == axis.unknown_cell:
            facts[name] = None
        else:
            facts[name] = int(axis.sample_value(cell)) if axis.choices is None else axis.choices[cell]
    for name in tuple(facts):
        fewer = {key: value for key, value in facts.items() if key != name}
        if locate_facts(rules, table, fewer) == point:
            facts = fewer
    return facts


def format_cases(cases: Iterable[Case]) -> Iterator[str]:
    """Yield cases as lines of a file in `rules/cases/`."""
    for case in cases:
        facts = ", ".join(f"{name}: {_format_value(value)}" for name, value in case.given.items())
        yield f"  - {{given: {{{facts}}}, fire: [{', '.join(case.fire)}]}}"


def _format_value(value: FactValue) -> str:
    # Other YAML parsers read yes and no as booleans.
    return "unknown" if value is None else f'"{value}"' if value in ("yes", "no") else str(value)
