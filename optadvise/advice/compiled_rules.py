"""Compiled rules of a catalog: axes of all facts, decision tables and defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from optadvise.memory.rules import MemoryRules
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.defaults import CompiledDefaults
from optadvise.rulebase.records import Condition
from optadvise.rulebase.table_records import Adjustment, NumberSetting
from optadvise.rulebase.tables import Axis, Table, cut_axes


class CompiledRules:
    """Tables and defaults of a catalog, with the caches of functions that take them.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> CompiledRules(load()).reference_optimizer
        'adamw'
    """

    def __init__(self, catalog: Catalog, extra_conditions: Iterable[Mapping[str, Condition]] = ()) -> None:
        """Compile a catalog.

        Args:
            catalog: The rules.
            extra_conditions: Conditions whose thresholds also cut the axes, so that two sets of rules have equal cells.
        """
        self.catalog = catalog
        self.axes: dict[str, Axis] = cut_axes(catalog.facts, [*list_conditions(catalog), *extra_conditions])
        self.defaults = CompiledDefaults(catalog.base, self.axes)
        with_ = catalog.facts["memory"].with_
        self.reference_optimizer: str = with_["reference"]  # whose state defines memory pressure
        self.compact_optimizer: str = with_["compact"]  # whose smaller state is compared with it
        self.caches: dict[Callable[..., Any], Callable[..., Any]] = {}  # see `core.caching`

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Return the decision tables by id, compiled on first use (estimates need none)."""
        return {name: Table(table, self.axes) for name, table in self.catalog.base.tables.items()}

    @cached_property
    def deciding_tables(self) -> tuple[Table, Table]:
        """Return the tables that choose the optimizer: `concern` and `choose_optimizer`."""
        return self.tables["concern"], self.tables["choose_optimizer"]

    @cached_property
    def deciding_facts(self) -> tuple[str, ...]:
        """Return the facts that the deciding tables read, sorted."""
        columns = {column for table in self.deciding_tables for column in table.columns}
        return tuple(sorted(columns - {"concern"}))

    @cached_property
    def input_facts(self) -> tuple[str, ...]:
        """Return the facts that a user can set."""
        return tuple(fact.id for fact in self.catalog.facts.values() if fact.is_input)

    @cached_property
    def input_axes(self) -> list[tuple[str, Axis]]:
        """Return the input facts that conditions read, with their axes."""
        read = {name for table in self.tables.values() for name in table.columns} | self.defaults.reads
        return [(name, self.axes[name]) for name in (*self.input_facts, "optimizer") if name in read]

    @cached_property
    def scaling_facts(self) -> tuple[str, ...]:
        """Return the facts by which hyperparameters can be scaled."""
        rules = [rule for table in self.catalog.base.tables.values() for rule in table.rules]
        steps = [step for rule in rules if isinstance(rule.then, Adjustment) for step in rule.steps]
        steps += [step for card in self.catalog.base.optimizers.values() for step in card.adjust]
        names = {rule.number.along for rule in rules if isinstance(rule.then, NumberSetting)}
        names |= {step.by for step in steps}
        facts = self.catalog.facts.values()
        return tuple(fact.id for fact in facts if fact.id in names and (fact.is_input or fact.derived == "batch"))

    @cached_property
    def memory_rules(self) -> MemoryRules:
        """Return the rules of the memory estimate."""
        return MemoryRules(self.catalog)


def list_conditions(catalog: Catalog) -> Iterator[Mapping[str, Condition]]:
    """Yield the conditions of every rule, default, contradiction and combination that is not suggested."""
    base = catalog.base
    for table in base.tables.values():
        yield from (rule.when for rule in table.rules)
    yield from (row.when for row in base.assume)
    yield from (row.when for row in base.contradictions)
    yield from (row.when for row in base.unsuggested)
