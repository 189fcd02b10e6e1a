"""Regions of situations in which each rule decides, through the chain of tables.

The chain is concern → optimizer → card → schedule → hyperparameters and warnings. A region is a box of facts minus
other boxes: rules with precedence, contradictions, and missing defaults. The memory estimate is not modeled: a model
size and a memory limit can lead to any memory pressure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import read_card_facts
from optadvise.advice.schedule_choice import restrict_schedule
from optadvise.core.caching import cached
from optadvise.core.cards import Optimizer, Scheduler
from optadvise.core.records import Situation
from optadvise.rulebase.proofs import find_winning_boxes
from optadvise.rulebase.records import Condition
from optadvise.rulebase.regions import Box, find_lowest_bit, find_uncovered, intersect_boxes, make_box, touches
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Table

_NO_GPU = Situation()  # has the default vendor and precision support


class Region(Struct, frozen=True):
    """Set of situations: a box minus other boxes."""

    box: Box
    excluded: tuple[Box, ...]


class RuleRegion(Struct, frozen=True):
    """Rule with the region in which it decides."""

    rule: Rule
    region: Region


class ScheduleRegion(Struct, frozen=True):
    """Rule of the schedule table with its region and the chosen schedule."""

    rule: Rule
    region: Region
    scheduler: Scheduler


def list_rule_regions(rules: CompiledRules, table: Table) -> list[RuleRegion]:
    """Return the regions in which each rule of a table decides, including `otherwise`, regardless of other tables."""
    regions, boxes = [], [make_box(rule, rules.axes) for rule in table.rules]
    for rule in table.all_rules:
        box, excluded = find_winning_boxes(table, rule, boxes)
        regions.append(RuleRegion(rule=rule, region=Region(box=box, excluded=tuple(excluded))))
    return regions


def intersect(rules: CompiledRules, first: Region, second: Region) -> Region | None:
    """Return the intersection of two regions; None if it is empty."""
    region = _overlap(first, second)
    return None if region is None or find_uncovered(region.box, region.excluded, rules.axes) is None else region


def _overlap(first: Region, second: Region) -> Region | None:
    """Return the intersection of two regions, which can be empty; None if their boxes are disjoint."""
    box = intersect_boxes(first.box, second.box)
    if box is None:
        return None
    excluded = tuple(other for other in (*first.excluded, *second.excluded) if touches(other, box))
    return Region(box=box, excluded=excluded)


# -- impossible situations ---------------------------------------------------------------------------------------------


@cached(1)
def find_possible(rules: CompiledRules) -> Region:
    """Return the region of all possible situations."""
    contradictions = (box for box in _list_contradictions(rules) if "optimizer" not in box)
    impossible = (*_list_missing_defaults(rules), *_list_false_derivations(rules), *contradictions)
    return Region(box={}, excluded=impossible)


def _list_contradictions(rules: CompiledRules) -> Iterator[dict[str, int]]:
    for row in rules.catalog.base.contradictions:
        yield _make_box(rules, row.when)


def _make_box(rules: CompiledRules, when: Mapping[str, Condition]) -> dict[str, int]:
    return {name: rules.axes[name].accepted(condition) for name, condition in when.items()}


def _list_missing_defaults(rules: CompiledRules) -> Iterator[dict[str, int]]:
    """Yield the boxes in which a fact with a default would be unknown."""
    for row in rules.catalog.base.assume:
        yield {**_make_box(rules, row.when), row.fact: 1 << rules.axes[row.fact].unknown_cell}


def _list_false_derivations(rules: CompiledRules) -> Iterator[dict[str, int]]:
    """Yield the boxes in which a derived fact contradicts the facts that it is derived from.

    See `classify_pressure` and `locate_estimate`. The name of a GPU states its memory, vendor and bf16 support.
    """
    axes = rules.axes
    memory, fits, state_share = axes["memory"], axes["fits"], axes["state_share"]
    no_limit, no_size = 1 << axes["vram_bytes"].unknown_cell, 1 << axes["params"].unknown_cell
    limit, size = axes["vram_bytes"].every & ~no_limit, axes["params"].every & ~no_size
    unlimited, limited = 1 << memory.cell("unlimited"), 1 << memory.cell("limited")
    no_fit, no_share = 1 << fits.unknown_cell, 1 << state_share.unknown_cell
    yield {"vram_bytes": no_limit, "memory": memory.every & ~unlimited}
    yield {"vram_bytes": limit, "memory": unlimited}
    yield {"params": size, "memory": limited}
    yield {"params": no_size, "memory": memory.every & ~unlimited & ~limited}
    yield {"params": no_size, "fits": fits.every & ~no_fit}
    yield {"vram_bytes": no_limit, "fits": fits.every & ~no_fit}
    yield {"params": size, "vram_bytes": limit, "fits": no_fit}
    yield {"params": no_size, "state_share": state_share.every & ~no_share}
    for name in ("vendor", "bf16"):
        default = 1 << axes[name].cell(getattr(_NO_GPU, name))
        yield {name: axes[name].every & ~default, "vram_bytes": no_limit}


# -- the chain ---------------------------------------------------------------------------------------------------------


@cached(1)
def list_concern_regions(rules: CompiledRules) -> list[RuleRegion]:
    """Return the region of each rule of the concern table, the ordinary concern first."""
    possible, regions = find_possible(rules), []
    for entry in reversed(list_rule_regions(rules, rules.tables["concern"])):
        concern = 1 << rules.axes["concern"].cell(entry.rule.derived["concern"])
        concern_region = Region(box={**entry.region.box, "concern": concern}, excluded=entry.region.excluded)
        region = intersect(rules, possible, concern_region)
        if region is not None:
            regions.append(RuleRegion(rule=entry.rule, region=region))
    return regions


@cached(1)
def list_choice_regions(rules: CompiledRules) -> list[RuleRegion]:
    """Return the regions of each rule of the optimizer table, without the facts of the chosen card."""
    rows = list_rule_regions(rules, rules.tables["choose_optimizer"])
    return [
        RuleRegion(rule=entry.rule, region=region)
        for concern in list_concern_regions(rules)
        for entry in rows
        if (region := intersect(rules, concern.region, entry.region)) is not None
    ]


@cached(1)
def list_optimizer_regions(rules: CompiledRules) -> list[Region]:
    """Return the regions where each optimizer is chosen or requested, with the facts of its card; some can be empty."""
    regions = []
    for choice in list_choice_regions(rules):
        card = rules.catalog.optimizer(choice.rule.choice.chosen)
        for card_region in _list_card_regions(rules, card, is_requested=False):
            regions.append(intersect(rules, choice.region, card_region))
    for name in rules.catalog.optimizer_ids:
        for card_region in _list_card_regions(rules, rules.catalog.optimizer(name), is_requested=True):
            regions += [_overlap(concern.region, card_region) for concern in list_concern_regions(rules)]
    return [region for region in regions if region is not None]


def _list_card_regions(rules: CompiledRules, card: Optimizer, *, is_requested: bool) -> Iterator[Region]:
    """Yield the regions of a card's facts for suitable kinds of model, and for the others."""
    model = rules.axes["model"]
    suited = sum(1 << model.cell(kind) for kind in card.model_types)
    facts = {**read_card_facts(card, card.implementations[0], rules.axes), "asked_for": is_requested}
    excluded = tuple(box for box in _list_contradictions(rules) if "optimizer" in box) if is_requested else ()
    for is_suited, models in ((True, suited), (False, model.every & ~suited)):
        cells = {name: 1 << rules.axes[name].cell(value) for name, value in {**facts, "suited": is_suited}.items()}
        if models:
            yield Region(box={**cells, "model": models}, excluded=excluded)


def find_card(rules: CompiledRules, region: Region) -> Optimizer:
    """Return the optimizer of a region from `list_optimizer_regions`."""
    names = rules.axes["optimizer"].choices or ()
    return rules.catalog.optimizer(names[find_lowest_bit(region.box["optimizer"])])


@cached(1)
def list_schedule_regions(rules: CompiledRules) -> list[ScheduleRegion]:
    """Return the regions of each rule of the schedule table with the chosen schedule; some can be empty."""
    rows, regions = list_rule_regions(rules, rules.tables["choose_schedule"]), []
    for before in list_optimizer_regions(rules):
        card = find_card(rules, before)
        for entry in rows:
            box = intersect_boxes(before.box, entry.region.box)
            if box is not None:
                scheduler = restrict_schedule(rules, card, entry.rule.choice.chosen)
                box["schedule"] = 1 << rules.axes["schedule"].cell(scheduler.family)
                region = Region(box=box, excluded=(*before.excluded, *entry.region.excluded))
                regions.append(ScheduleRegion(rule=entry.rule, region=region, scheduler=scheduler))
    return regions
