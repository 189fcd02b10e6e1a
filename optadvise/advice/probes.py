"""Probes of the sensitivity analysis: facts to change, and values to try."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.plan import list_plan_facts
from optadvise.core.caching import cached
from optadvise.core.cards import UNKNOWN
from optadvise.core.records import Situation
from optadvise.rulebase.records import Fact
from optadvise.rulebase.tables import Axis

MEMORY_FACTS = ("params", "vram_bytes")  # memory pressure has thresholds in these
_OBSERVED = "stability"  # users cannot change it, but they observe it during training
_COST = {"free": 0, "cheap": 1, "costly": 2, "fixed": 3}  # of changing a fact; `change` in rules/facts.yaml


class Candidate(Struct, frozen=True):
    """A value to try, and the cells that the deciding tables do not distinguish from it."""

    cells: range
    value: Any


class Probe(Struct, frozen=True):
    """A fact to change, and the values to try."""

    fact: str
    axis: Axis
    is_deciding: bool  # whether a deciding table reads it
    affects_memory: bool  # whether the plan of a run depends on it
    candidates: tuple[Candidate, ...]


@cached(1)
def list_probes(rules: CompiledRules) -> tuple[Probe, ...]:
    """Return the facts to change, the easiest first."""
    facts = rules.catalog.facts
    names = sorted(facts, key=lambda name: _COST[facts[name].change])
    return tuple(_make_probe(rules, name) for name in names if _is_probed(rules, name))


def _is_probed(rules: CompiledRules, fact: str) -> bool:
    """Return whether users can set a fact and its values can lead to another optimizer."""
    is_read = is_deciding(rules, fact) or fact in list_plan_facts(rules) or fact in rules.defaults.triggers
    axis = rules.axes[fact]
    has_values = axis.choices is not None or is_deciding(rules, fact) or fact in MEMORY_FACTS
    return rules.catalog.facts[fact].flag is not None and is_read and has_values


def _make_probe(rules: CompiledRules, fact: str) -> Probe:
    axis = rules.axes[fact]
    if axis.choices is None:
        candidates = [
            Candidate(cells=cells, value=int(axis.sample_value(cells[0])))
            for cells in find_equivalent_ranges(rules, fact)
        ]
    else:
        candidates = [
            Candidate(cells=range(cell, cell + 1), value=parse_choice(axis, choice))
            for cell, choice in enumerate(axis.choices)
        ]
    return Probe(
        fact=fact,
        axis=axis,
        is_deciding=is_deciding(rules, fact),
        affects_memory=fact in list_plan_facts(rules),
        candidates=tuple(candidates),
    )


def is_changeable(rules: CompiledRules, fact: str, situation: Situation) -> bool:
    """Return whether a user can change a fact: it is not fixed, or its value is assumed."""
    if (fact == "params" and situation.shape is not None) or (fact == "vram_bytes" and "gpu" in situation.stated):
        return False  # it follows from --arch or --gpu
    cost = rules.catalog.facts[fact].change
    return cost != "fixed" or fact == _OBSERVED or fact in situation.assumed


def is_relevant(fact: Fact | None, situation: Situation) -> bool:
    """Return whether another value of a fact makes sense in a situation."""
    limits = {} if fact is None else fact.suggest_for
    return all((getattr(situation, name) or UNKNOWN) in values for name, values in limits.items())


def is_deciding(rules: CompiledRules, fact: str) -> bool:
    """Return whether a deciding table reads a fact."""
    return any(fact in table.columns for table in rules.deciding_tables)


def parse_choice(axis: Axis, choice: str) -> str | bool:
    """Return the value of an axis's choice; flags become booleans."""
    return choice == "true" if axis.choices == ("true", "false") else choice


@cached(8192)
def find_equivalent_ranges(rules: CompiledRules, fact: str) -> list[range]:
    """Return the ranges of a numeric fact's cells that the deciding tables do not distinguish."""
    axis = rules.axes[fact]
    columns = [table.column(fact) for table in rules.deciding_tables if fact in table.columns]
    cuts = [cell for cell in range(1, axis.unknown_cell) if any(column[cell] != column[cell - 1] for column in columns)]
    return [range(first, end) for first, end in pairwise([0, *cuts, axis.unknown_cell])]
