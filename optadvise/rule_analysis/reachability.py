"""Reachability of points and rules through the chain of tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.hyperparameters import is_table_read
from optadvise.core.caching import cached
from optadvise.rule_analysis.table_regions import (
    Region,
    find_card,
    find_possible,
    list_choice_regions,
    list_concern_regions,
    list_optimizer_regions,
    list_rule_regions,
    list_schedule_regions,
)
from optadvise.rulebase.regions import Box, Point, find_uncovered, intersect_boxes
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Table

UNCHAINED_TABLES = ("memory_notation",)  # read by `show` for any optimizer, outside the chain


def find_reachable(rules: CompiledRules, box: Box, excluded: Iterable[Box] = ()) -> Point | None:
    """Return a point of a box that a situation reaches at the end of the chain, or None."""
    excluded = tuple(excluded)
    if any("schedule" in region for region in (box, *excluded)):
        return _search(rules, (entry.region for entry in list_schedule_regions(rules)), box, excluded)
    return _search(rules, list_optimizer_regions(rules), box, excluded)


def find_read(rules: CompiledRules, table: str, box: Box, excluded: Iterable[Box] = ()) -> Point | None:
    """Return a point of a box that a situation reaches when a table is read, or None."""
    excluded = tuple(excluded)
    if table in UNCHAINED_TABLES:
        return find_uncovered(box, excluded, rules.axes)
    needs_schedule = table == "warmup" or any("schedule" in region for region in (box, *excluded))
    return _search(rules, _list_read_regions(rules, table, needs_schedule), box, excluded)


@cached(64)
def _list_read_regions(rules: CompiledRules, table: str, needs_schedule: bool) -> Sequence[Region]:
    """Return the regions in which a table is read, with the facts that are decided at that time."""
    if table == "concern":
        return [find_possible(rules)]
    if table == "choose_optimizer":
        return [concern.region for concern in list_concern_regions(rules)]
    if table == "choose_schedule" or not needs_schedule:
        return [region for region in list_optimizer_regions(rules) if is_table_read(table, find_card(rules, region))]
    return [
        entry.region for entry in list_schedule_regions(rules)
        if is_table_read(table, find_card(rules, entry.region), entry.scheduler)
    ]  # fmt: skip


def _search(rules: CompiledRules, regions: Iterable[Region], box: Box, excluded: tuple[Box, ...]) -> Point | None:
    """Return a point in a box and in one of several regions, with default values if possible; None without one."""
    default = _find_default_point(rules)
    for region in regions:
        shared = intersect_boxes(region.box, box)
        if shared is not None:
            point = find_uncovered(shared, (*region.excluded, *excluded), rules.axes, default)
            if point is not None:
                return point
    return None


@cached(1)
def _find_default_point(rules: CompiledRules) -> dict[str, int]:
    """Return the cells of a situation without inputs; unknown for facts without a default."""
    defaults = rules.defaults.fill({})
    cells = {
        name: axis.cell(defaults[name]) if name in defaults else axis.unknown_cell for name, axis in rules.axes.items()
    }
    return {**cells, "memory": rules.axes["memory"].cell("unlimited")}


def list_unreachable(rules: CompiledRules, table: Table) -> Iterator[Rule]:
    """Yield the rules of a table that no situation reaches."""
    regions = {"concern": list_concern_regions, "choose_optimizer": list_choice_regions}
    if table.id in regions:  # these tables are read before the facts of a card are known
        reached = {entry.rule.id for entry in regions[table.id](rules)}
        yield from (entry.rule for entry in list_rule_regions(rules, table) if entry.rule.id not in reached)
        return
    for entry in list_rule_regions(rules, table):
        if find_read(rules, table.id, entry.region.box, entry.region.excluded) is None:
            yield entry.rule
