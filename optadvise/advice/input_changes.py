"""Optimizer after a change of one input, compared with the decision before it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import product
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import change_situation, complete_situation
from optadvise.advice.decide import choose_optimizer, decide_at
from optadvise.advice.memory_pressure import locate_plan
from optadvise.advice.plan import list_chosen_facts, list_plan_facts
from optadvise.advice.probes import MEMORY_FACTS
from optadvise.core.caching import cached
from optadvise.core.errors import InputError
from optadvise.core.records import InputValue, Situation


class Baseline(Struct, frozen=True, eq=False):
    """The decision that changes are compared with; baselines with equal keys share cached results."""

    situation: Situation
    optimizer: str
    point: tuple[int, ...]  # cells of `CompiledRules.deciding_facts`
    key: Hashable  # inputs of changes that do not affect memory

    def __eq__(self, other: object) -> bool:
        """Return whether the keys are equal."""
        return isinstance(other, Baseline) and self.key == other.key

    def __hash__(self) -> int:
        """Return the hash of the key."""
        return hash(self.key)

    @property
    def is_sized(self) -> bool:
        """Return whether memory pressure can be computed: the model's size and the memory limit are known."""
        return self.situation.params is not None and self.situation.vram_bytes is not None


def choose_after(rules: CompiledRules, baseline: Baseline, fact: str, value: Any, cell: int) -> str | None:
    """Return the optimizer after one change; None if the change contradicts another input."""
    changes = rules.defaults.follow_change(baseline.situation, fact, value)
    if changes is None:
        return None
    point, positions = list(baseline.point), _find_positions(rules)
    for name, new in changes.items():
        if name in positions:
            point[positions[name]] = cell if name == fact else rules.axes[name].cell(new)
    can_compute = baseline.is_sized or fact in MEMORY_FACTS
    if can_compute and not list_plan_facts(rules).isdisjoint(changes) and depends_on_memory(rules, point):
        try:
            after = change_situation(rules, baseline.situation, changes)
        except InputError:
            return None
        for name, located in locate_plan(rules, replace(after, stated=(*after.stated, fact))).items():
            point[positions[name]] = located
    return str(decide_at(rules, tuple(point)).optimizer.choice.chosen)


@cached(1)
def _find_positions(rules: CompiledRules) -> dict[str, int]:
    """Return the index of each deciding fact in a point."""
    return {name: index for index, name in enumerate(rules.deciding_facts)}


def depends_on_memory(rules: CompiledRules, point: Sequence[int]) -> bool:
    """Return whether the optimizer depends on a run's plan if all facts that the plan does not choose are fixed."""
    planned = _find_planned_positions(rules)
    return _count_optimizers(rules, tuple([0 if i in planned else cell for i, cell in enumerate(point)])) > 1


@cached(1)
def _find_planned_positions(rules: CompiledRules) -> dict[int, str]:
    """Return the deciding facts that follow from a plan, by their index in a point."""
    planned = {"memory", *list_chosen_facts(rules)}
    return {index: name for index, name in enumerate(rules.deciding_facts) if name in planned}


@cached(8192)
def _count_optimizers(rules: CompiledRules, point: tuple[int, ...]) -> int:
    """Count the optimizers over all values of the facts that follow from a plan, if all other facts are fixed."""
    planned = _find_planned_positions(rules)
    optimizers = set()
    for cells in product(*(range(rules.axes[name].unknown_cell) for name in planned.values())):
        located = dict(zip(planned, cells, strict=True))
        chosen = decide_at(rules, tuple([located.get(index, cell) for index, cell in enumerate(point)]))
        optimizers.add(chosen.optimizer.choice.chosen)
    return len(optimizers)


def complete_change(rules: CompiledRules, situation: Situation, fact: str, value: InputValue) -> Situation | None:
    """Return the complete situation for the stated inputs with one change; None if they contradict each other."""
    inputs = {**situation.stated_inputs, fact: value}
    if "shape" in inputs:
        inputs.pop("params", None)
    try:
        return complete_situation(rules, inputs)
    except InputError:
        return None


def leads_to(rules: CompiledRules, situation: Situation, fact: str, value: InputValue, optimizer: str) -> bool:
    """Return whether the stated inputs with one change are accepted, can be suggested and lead to an optimizer."""
    after = complete_change(rules, situation, fact, value)
    if after is None or not rules.defaults.is_suggested(situation, after):
        return False
    return choose_optimizer(rules, after) == optimizer
