"""Why a row did not win: the conditions it missed, or the row that comes before it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from optadvise.rulebase.records import Rule
from optadvise.rulebase.regions import box_of
from optadvise.rulebase.tables import Axis, Table


class NearMiss(Struct, frozen=True):
    """A row that did not decide."""

    rule: Rule
    missed: tuple[tuple[str, int, int], ...]  # fact, the cells it asks for, the cell at hand
    beaten_by: str | None  # where all conditions hold, the row that decides instead


def near_misses(table: Table, cells: Mapping[str, int], axes: Mapping[str, Axis], most: int = 3) -> list[NearMiss]:
    """Return the rows that came nearest to deciding, the nearest first.

    Args:
        table: A table in which one row decides.
        cells: The situation.
        axes: Every fact's axis.
        most: How many to return.
    """
    winner = table.winner(cells)
    misses = [
        missed(rule, cells, axes, winner)
        for rule in table.rules
        if rule.id != winner.id and rule.then != winner.then
    ]  # fmt: skip
    return sorted(misses, key=lambda miss: len(miss.missed))[:most]


def missed(rule: Rule, cells: Mapping[str, int], axes: Mapping[str, Axis], winner: Rule) -> NearMiss:
    """Return what kept a row from deciding.

    Args:
        rule: The row.
        cells: The situation.
        axes: Every fact's axis.
        winner: The row that decides.
    """
    failed = tuple(
        (name, mask, cells[name]) for name, mask in box_of(rule, axes).items() if not mask >> cells[name] & 1
    )
    return NearMiss(rule, failed, None if failed else winner.id)
