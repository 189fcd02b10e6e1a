"""The tests beside the rules: the examples in each row, and the cases of each table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.errors import RuleFileError
from optadvise.core.records import SITUATION_DEFAULTS
from optadvise.rulebase.hyperparameters import set_by
from optadvise.rulebase.records import Case, Example, Rule
from optadvise.rulebase.regions import Point
from optadvise.rulebase.tables import Table


class Failure(Struct, frozen=True):
    """A test that does not hold."""

    rule: str  # or the table, for a case
    at: str
    text: str


class Tested(Struct, frozen=True):
    """The outcome of running the tests."""

    ran: int
    failures: tuple[Failure, ...]
    overruled: int  # tests of a lower layer that a higher one changes on purpose
    untested: tuple[str, ...]  # rows without an example in which they fire
    silent: tuple[str, ...]  # rows that fired in no test

    @property
    def passed(self) -> bool:
        """Did tests run, and did all hold?"""
        return bool(self.ran) and not (self.failures or self.untested or self.silent)


def rows(table: Table) -> tuple[Rule, ...]:
    """Return a table's rules, what it says otherwise included."""
    return table.rules if table.otherwise is None else (*table.rules, table.otherwise)


def placed(advisor: CompiledRules, table: Table, given: Mapping[str, Any]) -> Point:
    """Place a test's facts on a table's grid; what it leaves out is what a person would be assumed to mean.

    Args:
        advisor: The rules.
        table: The table.
        given: Facts by name.
    """
    filled = advisor.completer.fill({name: value for name, value in given.items() if value is not None})
    point = {}
    for name in table.columns:
        axis = advisor.axes[name]
        value = given.get(name, filled.get(name, SITUATION_DEFAULTS.get(name)))
        if value is None and name not in given and axis.words and not axis.every >> axis.unknown & 1:
            value = "false" if "false" in axis.words else axis.words[0]
        point[name] = axis.cell(value)
    return point


def run(advisor: CompiledRules, cases: Sequence[Case] = ()) -> Tested:
    """Run every test that stands beside the rules.

    Args:
        advisor: The rules.
        cases: Cases of tables, from `catalog.cases`.
    """
    ran, overruled = 0, 0
    failures: list[Failure] = []
    fired: set[str] = set()
    untested = []
    for table in advisor.tables.values():
        layers = {rule.id: rule.layer for rule in rows(table)}
        own = [case for case in cases if case.table == table.id]
        for case in own:
            ran += 1
            found, text = _case(advisor, table, case)
            fired |= set(found)
            if text is not None:
                above = _above(case.layer, {*found, *case.fire}, layers, advisor)
                overruled += above
                failures += [] if above else [Failure(table.id, case.at, text)]
        for rule in rows(table):
            for test in rule.tests:
                ran += 1
                found, text = example(advisor, table, rule, test)
                fired |= set(found)
                if text is not None:
                    above = _above(rule.layer, set(found), layers, advisor)
                    overruled += above
                    failures += [] if above else [Failure(rule.id, test.at or rule.at, text)]
            if not any(test.expect.get("fires", True) for test in rule.tests):
                untested.append(rule.id)
    everything = [rule for table in advisor.tables.values() for rule in rows(table)]
    silent = [rule.id for rule in everything if rule.id not in fired and rule.layer == everything[0].layer]
    known = set(advisor.tables)
    failures += [
        Failure(case.table, case.at, f"there is no table {case.table!r}")
        for case in cases if case.table not in known
    ]  # fmt: skip
    return Tested(ran, tuple(failures), overruled, tuple(untested), tuple(silent))


def _above(layer: str, names: Iterable[str], layers: Mapping[str, str], advisor: CompiledRules) -> bool:
    """Is a rule of a later layer involved, or one that a later layer took away?"""
    order = {name: number for number, name in enumerate(advisor.catalog.layers)}
    own = order.get(layer, 0)
    return any(order.get(layers.get(name, "\0"), len(order)) > own for name in names)


def example(advisor: CompiledRules, table: Table, rule: Rule, test: Example) -> tuple[list[str], str | None]:
    """Run one example of a row; return the rows that fired and what is wrong, None where nothing is."""
    given, expect = test.given, test.expect
    try:
        found = table.matching(placed(advisor, table, given))
    except RuleFileError as error:
        return [], str(error)
    names = [row.id for row in found]
    if "fires" in expect:
        fires = rule.id in names
        return names, None if fires == expect["fires"] else f"{rule.id} {'fires' if fires else 'does not fire'}"
    if names != [rule.id]:
        return names, f"{rule.id} should decide, but {' and '.join(names) or 'nothing'} does"
    got = rule.outcome
    if table.kind == "set":
        got["value"] = set_by(rule, str(table.gives), given).value
    wrong = [f"{name} is {got.get(name)!r}, not {value!r}" for name, value in expect.items() if got.get(name) != value]
    return names, "; ".join(wrong) or None


def _case(advisor: CompiledRules, table: Table, case: Case) -> tuple[list[str], str | None]:
    try:
        found = sorted(row.id for row in table.matching(placed(advisor, table, case.given)))
    except RuleFileError as error:
        return [], str(error)
    if found == sorted(case.fire):
        return found, None
    said, got = ", ".join(sorted(case.fire)) or "none", ", ".join(found) or "none"
    return found, f"{said} should decide, but {got} does"


def written(point: Point, advisor: CompiledRules, table: Table) -> dict[str, Any]:
    """Return the facts that a case has to give to be at a point, without those that are assumed anyway.

    Args:
        point: A cell for every column of the table.
        advisor: The rules.
        table: The table.
    """
    given: dict[str, Any] = {}
    for name, cell in point.items():
        axis = advisor.axes[name]
        unknown = cell == axis.unknown
        given[name] = None if unknown else int(axis.inside(cell)) if axis.words is None else axis.words[cell]
    for name in tuple(given):
        fewer = {key: value for key, value in given.items() if key != name}
        if placed(advisor, table, fewer) == point:
            given = fewer
    return given


def lines(cases: Iterable[Case]) -> Iterator[str]:
    """Yield cases as lines of a file under `rules/cases/`."""
    for case in cases:
        facts = ", ".join(f"{name}: {_plain(value)}" for name, value in case.given.items())
        yield f"  - {{given: {{{facts}}}, fire: [{', '.join(case.fire)}]}}"


def _plain(value: Any) -> str:
    # Elsewhere YAML takes these for booleans, which the reader of rules does not.
    return "unknown" if value is None else f'"{value}"' if value in ("yes", "no") else str(value)
