"""Why a row did not win: the conditions that it missed, or the row that comes before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from optadvise.rulebase.regions import make_box
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Axis, Table


class MissedCondition(Struct, frozen=True):
    """A condition that a situation does not meet."""

    fact: str
    accepted: int  # mask of the cells that the condition accepts
    cell: int  # of the situation


class NearMiss(Struct, frozen=True):
    """A row that did not decide."""

    rule: Rule
    missed: tuple[MissedCondition, ...]
    beaten_by: str | None  # the row that decides instead, where all conditions are met


def list_near_misses(
    table: Table, cells: Mapping[str, int], axes: Mapping[str, Axis], limit: int = 3
) -> list[NearMiss]:
    """Return the rows that came nearest to deciding, the nearest first, without those of the same outcome.

    Args:
        table: A table in which one row decides.
    """
    winner = table.winner(cells)
    others = (rule for rule in table.rules if rule.id != winner.id and rule.then != winner.then)
    return sort_misses(explain_miss(rule, cells, axes, winner) for rule in others)[:limit]


def sort_misses(misses: Iterable[NearMiss]) -> list[NearMiss]:
    """Return rows that did not decide, those with the fewest missed conditions first."""
    return sorted(misses, key=lambda miss: len(miss.missed))


def explain_miss(rule: Rule, cells: Mapping[str, int], axes: Mapping[str, Axis], winner: Rule) -> NearMiss:
    """Return what kept a row from deciding."""
    missed = tuple(
        MissedCondition(fact=name, accepted=mask, cell=cells[name])
        for name, mask in make_box(rule, axes).items()
        if not mask >> cells[name] & 1
    )
    return NearMiss(rule=rule, missed=missed, beaten_by=None if missed else winner.id)
