"""The rules of a catalog, compiled: the axes of all facts, the decision tables and the defaults."""

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
    """A catalog's tables and defaults, and the caches of what was computed with them.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> CompiledRules(load()).reference_optimizer
        'adamw'
    """

    def __init__(self, catalog: Catalog, extra_conditions: Iterable[Mapping[str, Condition]] = ()) -> None:
        """Compile a catalog.

        Args:
            catalog: The rules.
            extra_conditions: Conditions at whose thresholds facts are cut too, so that two sets of rules have the same
                cells.
        """
        self.catalog = catalog
        self.axes: dict[str, Axis] = cut_axes(catalog.facts, [*list_conditions(catalog), *extra_conditions])
        self.defaults = CompiledDefaults(catalog.base.assume, catalog.base.contradictions, self.axes)
        with_ = catalog.facts["memory"].with_
        self.reference_optimizer: str = with_["reference"]  # memory pressure compares its state
        self.compact_optimizer: str = with_["compact"]  # with the smaller state of this one
        self.caches: dict[Callable[..., Any], Callable[..., Any]] = {}  # see `core.caching`

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Compile the decision tables, by id, on first use, as an estimate needs none."""
        return {name: Table(table, self.axes) for name, table in self.catalog.base.tables.items()}

    @cached_property
    def deciding_tables(self) -> tuple[Table, Table]:
        """Return the tables that decide about the optimizer: that of the concern, and that of the optimizer for it."""
        return self.tables["concern"], self.tables["choose_optimizer"]

    @cached_property
    def deciding_facts(self) -> tuple[str, ...]:
        """Return the facts that decide about the optimizer, sorted."""
        columns = {column for table in self.deciding_tables for column in table.columns}
        return tuple(sorted(columns - {"concern"}))

    @cached_property
    def input_facts(self) -> tuple[str, ...]:
        """Return the facts that a user states."""
        return tuple(fact.id for fact in self.catalog.facts.values() if fact.is_input)

    @cached_property
    def input_axes(self) -> list[tuple[str, Axis]]:
        """Return the facts of a situation that a condition reads, with their axes."""
        read = {name for table in self.tables.values() for name in table.columns} | self.defaults.reads
        return [(name, self.axes[name]) for name in (*self.input_facts, "optimizer") if name in read]

    @cached_property
    def scaling_facts(self) -> tuple[str, ...]:
        """Return the facts that the value of a hyperparameter may be scaled by."""
        rules = [rule for table in self.catalog.base.tables.values() for rule in table.rules]
        steps = [step for rule in rules if isinstance(rule.then, Adjustment) for step in rule.steps]
        steps += [step for card in self.catalog.base.optimizers.values() for step in card.adjust]
        names = {rule.number.along for rule in rules if isinstance(rule.then, NumberSetting)}
        names |= {step.by for step in steps}
        return tuple(name for name in self.input_facts if name in names)

    @cached_property
    def memory_rules(self) -> MemoryRules:
        """Return what the memory estimate reads of the catalog, with its caches."""
        return MemoryRules(self.catalog)


def list_conditions(catalog: Catalog) -> Iterator[Mapping[str, Condition]]:
    """Yield the conditions of every rule, default and contradiction."""
    base = catalog.base
    for table in base.tables.values():
        yield from (rule.when for rule in table.rules)
    yield from (row.when for row in base.assume)
    yield from (row.when for row in base.contradictions)
