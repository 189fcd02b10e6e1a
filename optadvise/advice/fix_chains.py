"""Chains of changes that can make a run fit: changes of `rules/fixes.yaml`, compiled and applied to a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.core.caching import cached
from optadvise.core.cards import AGREES, FactValue
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, Situation, read_count
from optadvise.memory.estimator import fits
from optadvise.memory.search import list_divisors, with_micro_batch
from optadvise.rulebase.regions import Box

_EFFORT_OF_DOUBLING = 8  # of doubling the number of GPUs
_EFFORT_OF_OVERRULING = 25  # of changing a specified input; these are changed last


class CompiledFix(Struct, frozen=True):
    """A change that can make a run fit."""

    id: str
    box: Box  # situations where it applies
    changes: Mapping[str, FactValue]  # by fact; `less` is a smaller micro-batch, `more` is more GPUs
    is_chosen: bool  # whether `recommend` makes the change by itself
    is_free: bool  # whether it costs nothing
    memory: str | None  # memory pressure of a run that requires the change
    effort: int
    effort_by: Mapping[str, int]  # by priority, instead of `effort`
    costs: str
    cite: tuple[str, ...]

    @property
    def adds_gpus(self) -> bool:
        """Return whether the change adds GPUs."""
        return "gpus" in self.changes

    def get_effort(self, priority: str) -> int:
        """Return the effort for a priority."""
        return self.effort_by.get(priority, self.effort)


class AppliedChain(Struct, frozen=True):
    """A chain of changes, applied to a run."""

    fixes: tuple[CompiledFix, ...]
    changes: tuple[Mapping[str, FactValue], ...]  # of each fix, with numbers for `less` and `more`
    effort: int
    situation: Situation  # the run after the changes, with its micro-batch

    @property
    def ids(self) -> set[str]:
        """Return the ids of the changes."""
        return {fix.id for fix in self.fixes}


@cached(1)
def compile_fixes(rules: CompiledRules) -> tuple[CompiledFix, ...]:
    """Return the changes in the order of the rules."""
    return tuple(
        CompiledFix(
            id=row.id, box={name: rules.axes[name].accepted(condition) for name, condition in row.when.items()},
            changes=row.change, is_chosen=row.chosen, is_free=row.free, memory=row.memory, effort=row.effort,
            effort_by=row.effort_by, costs=row.costs, cite=row.cite,
        )
        for row in rules.catalog.base.fixes
    )  # fmt: skip


def can_apply(rules: CompiledRules, situation: Situation, fix: CompiledFix) -> bool:
    """Return whether a change's conditions hold; an assumed micro-batch cannot shrink."""
    if "micro_batch" in fix.changes and ("micro_batch" in situation.assumed or situation.micro_batch in (None, 1)):
        return False
    return meets(rules, situation, fix.box)


def meets(rules: CompiledRules, situation: Situation, box: Box) -> bool:
    """Return whether a run is inside a box of facts."""
    return all(mask >> rules.axes[name].cell(getattr(situation, name)) & 1 for name, mask in box.items())


def is_sound_when_sharded(rules: CompiledRules, situation: Situation, optimizer: str) -> bool:
    """Return whether no measurement shows that an optimizer breaks with a situation's sharding."""
    sharding = rules.catalog.optimizer(optimizer).implementations[0].sharding
    return sharding.get(situation.sharding or "", AGREES) == AGREES


def iterate_chains(
    situation: Situation,
    fixes: Sequence[CompiledFix],
    max_length: int,
    can_help: Callable[[Sequence[CompiledFix]], bool] = lambda fixes: True,
) -> Iterator[tuple[CompiledFix, ...]]:
    """Yield the combinations of changes that set no fact twice, by effort; the first is empty.

    Args:
        situation: The run, for the efforts.
        fixes: The changes.
        max_length: Largest number of changes.
        can_help: Returns whether combinations of some changes can be useful; if not, they are left out.
    """
    efforts = [rate_effort(situation, [fix]) for fix in fixes]
    queue: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]
    while queue:
        effort, length, indices = heappop(queue)
        chain = tuple(fixes[index] for index in indices)
        yield chain
        changed = {name for fix in chain for name in fix.changes}
        for index in range(indices[-1] + 1 if indices else 0, len(fixes) if length < max_length else 0):
            if changed.isdisjoint(fixes[index].changes) and can_help((*chain, *fixes[index:])):
                heappush(queue, (effort + efforts[index], length + 1, (*indices, index)))


def rate_effort(situation: Situation, chain: Iterable[CompiledFix], gpus: int = 0) -> int:
    """Return the effort of a chain that adds GPUs up to a number; 0 adds none."""
    return _EFFORT_OF_DOUBLING * (gpus // situation.gpus).bit_length() + sum(
        fix.get_effort(situation.priority) + _EFFORT_OF_OVERRULING * bool(find_overruled(situation, fix.changes))
        for fix in chain
    )


def find_overruled(situation: Situation, changes: Mapping[str, FactValue]) -> dict[str, FactValue]:
    """Return the specified inputs that changes overrule; a smaller micro-batch and more GPUs overrule nothing."""
    overruling = [
        name for name, value in changes.items() if name in situation.stated and getattr(situation, name) != value
    ]
    return {name: getattr(situation, name) for name in overruling if name not in ("micro_batch", "gpus")}


def apply_chain(
    rules: CompiledRules, situation: Situation, chain: Sequence[CompiledFix], gpus: int = 0
) -> AppliedChain | None:
    """Apply a chain of changes to a run; return None if the rules reject the result.

    Args:
        rules: The compiled rules.
        situation: The run with its optimizer and micro-batch.
        chain: The changes.
        gpus: Number of GPUs for `more`.
    """
    kept = {name: getattr(situation, name) for name in situation.chosen}
    inputs = {**situation.stated_inputs, **kept, "optimizer": situation.optimizer}
    changes = [dict(fix.changes) for fix in chain]
    effort = rate_effort(situation, chain, gpus)
    shrinking = None
    for change in changes:
        if "gpus" in change:
            change |= _spread(inputs, gpus)
        elif "micro_batch" in change:
            shrinking = change
            continue
        inputs |= change
    if shrinking is not None:
        micro_batch = read_count(inputs, "micro_batch")
        inputs.setdefault("batch_size", situation.batch_size or micro_batch * situation.gpus)
        after = _shrink_micro_batch(rules, inputs, shrinking)
    else:
        after = _complete(rules, inputs)
    return (
        None
        if after is None
        else AppliedChain(fixes=tuple(chain), changes=tuple(changes), effort=effort, situation=after)
    )


def _spread(inputs: FactValues, gpus: int) -> dict[str, int]:
    """Return the change to more GPUs, with a smaller micro-batch if the batch per GPU requires it."""
    if inputs.get("batch_size") is None or inputs.get("micro_batch") is None:
        return {"gpus": gpus}
    batch_size, micro_batch = read_count(inputs, "batch_size"), read_count(inputs, "micro_batch")
    largest = max((size for size in list_divisors(batch_size // gpus) if size <= micro_batch), default=micro_batch)
    is_smaller = not batch_size % gpus and largest < micro_batch
    return {"gpus": gpus, "micro_batch": largest} if is_smaller else {"gpus": gpus}


def _shrink_micro_batch(rules: CompiledRules, inputs: FactValues, change: dict[str, FactValue]) -> Situation | None:
    """Set the largest smaller micro-batch that fits; gradient accumulation keeps the batch size.

    Args:
        rules: The compiled rules.
        inputs: Inputs of the run, with batch size and micro-batch.
        change: Change to which the micro-batch and the batch size are added.

    Returns:
        The run after the change; with the smallest micro-batch if none fits; None if the rules reject it.
    """
    batch_size, micro_batch = read_count(inputs, "batch_size"), read_count(inputs, "micro_batch")
    gpus = read_count(inputs, "gpus") if "gpus" in inputs else 1
    sizes = [] if batch_size % gpus else list_divisors(batch_size // gpus)
    after = None
    for size in sorted((size for size in sizes if size < micro_batch), reverse=True):
        after = _complete(rules, {**inputs, "micro_batch": size})
        if after is None:
            return None
        change.update(micro_batch=size, batch_size=batch_size)
        if fits(rules.memory_rules, after, after.optimizer or ""):
            break
    return after


def _complete(rules: CompiledRules, inputs: FactValues) -> Situation | None:
    """Return the run for inputs, with its micro-batch; None if they contradict each other."""
    without_size = {name: value for name, value in inputs.items() if name != "params" or "shape" not in inputs}
    try:
        situation = complete_situation(rules, without_size)
    except InputError:
        return None
    return with_micro_batch(rules.memory_rules, situation, situation.optimizer or "")
