"""Near misses: rules that did not decide, with their unmet conditions or the rule that took precedence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from optadvise.rulebase.regions import make_box
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Axis, Table


class MissedCondition(Struct, frozen=True):
    """Condition that a situation does not meet."""

    fact: str
    accepted: int  # mask of the cells that the condition accepts
    cell: int  # cell of the situation


class NearMiss(Struct, frozen=True):
    """Rule that did not decide."""

    rule: Rule
    missed: tuple[MissedCondition, ...]
    beaten_by: str | None  # rule that decided instead, if all conditions are met


def list_near_misses(table: Table, cells: Mapping[str, int], axes: Mapping[str, Axis]) -> list[NearMiss]:
    """Return the rules with another outcome, in order of their unmet conditions.

    Args:
        table: A table in which one rule decides.
    """
    winner = table.winner(cells)
    others = (rule for rule in table.rules if rule.id != winner.id and rule.then != winner.then)
    return sort_misses(explain_miss(rule, cells, axes, winner) for rule in others)


def sort_misses(misses: Iterable[NearMiss]) -> list[NearMiss]:
    """Sort rules that did not decide by their number of unmet conditions."""
    return sorted(misses, key=lambda miss: len(miss.missed))


def explain_miss(rule: Rule, cells: Mapping[str, int], axes: Mapping[str, Axis], winner: Rule) -> NearMiss:
    """Return why a rule did not decide."""
    missed = tuple(
        MissedCondition(fact=name, accepted=mask, cell=cells[name])
        for name, mask in make_box(rule, axes).items()
        if not mask >> cells[name] & 1
    )
    return NearMiss(rule=rule, missed=missed, beaten_by=None if missed else winner.id)
