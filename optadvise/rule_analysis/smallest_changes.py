"""Search for the smallest changes of inputs after which the rules choose another optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer
from optadvise.advice.number_changes import list_sizes
from optadvise.advice.option_values import find_limits, find_step, read_value, write_end
from optadvise.advice.plan import list_required_bytes
from optadvise.advice.probes import MEMORY_FACTS, find_equivalent_ranges, is_changeable, parse_choice
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, InputValue, Situation
from optadvise.rulebase.records import Fact

_EFFORT = {"free": 1, "cheap": 2, "costly": 5, "fixed": 20}  # by the `change` of a fact in rules/facts.yaml
_MAX_FACTS = 3  # maximum number of facts in a change
_ANY_LIMIT = "24GB"


class InputChange(Struct, frozen=True):
    """Change of inputs after which the rules choose an optimizer."""

    facts: Mapping[str, str]  # conditions on the new values, by fact
    values: Mapping[str, tuple[str, ...]]  # option values that meet them: a choice, or the ends of a range
    answers: FactValues  # all inputs after the change
    effort: int


class _Range(Struct, frozen=True):
    """New values of a fact that the rules do not distinguish: a choice, or numbers from `low` to `high`."""

    text: str  # value to try as option text; of numbers, the one nearest to the current number
    value: InputValue
    low: int = 0
    high: int = 0


_Change: TypeAlias = "dict[str, _Range]"


def find_smallest_changes(rules: CompiledRules, inputs: FactValues, optimizer: str) -> tuple[InputChange, ...]:
    """Return the changes of the fewest facts after which the rules choose an optimizer, the easiest first.

    Returns:
        Verified changes; empty if no change of up to three facts leads to the optimizer.
    """
    facts = _list_changeable(rules, complete_situation(rules, inputs))
    for count in range(1, _MAX_FACTS + 1):
        changes = [
            change for names in combinations(facts, count) for change in _list_changes(rules, inputs, names, optimizer)
        ]
        if changes:
            return tuple(sorted(changes, key=lambda change: change.effort))
    return ()


def _list_changeable(rules: CompiledRules, situation: Situation) -> list[str]:
    """Return the facts that can change the optimizer and that the user can change or did not specify."""
    return [
        name for name, fact in rules.catalog.facts.items()
        if fact.flag is not None and (name in rules.deciding_facts or name in MEMORY_FACTS)
        and is_changeable(rules, name, situation)
    ]  # fmt: skip


def _list_changes(
    rules: CompiledRules, inputs: FactValues, names: Sequence[str], optimizer: str
) -> Iterator[InputChange]:
    """Yield the changes of facts that lead to an optimizer, each with the widest range of values."""
    situation = complete_situation(rules, inputs)
    ranges = {name: list(_list_ranges(rules, situation, name)) for name in names if name not in MEMORY_FACTS}
    # Thresholds of memory pressure depend on the values of the other facts.
    names = sorted(names, key=lambda name: (name in MEMORY_FACTS, name == "vram_bytes"))
    changes = list(_try_values(rules, inputs, ranges, names))
    changes = [change for change in changes if _leads_to(rules, situation, _apply(inputs, change), optimizer)]
    for name in names:
        if rules.axes[name].choices is None:
            changes = _merge_ranges(changes, name, getattr(situation, name))
    for change in changes:
        described = {name: _describe(rules.catalog.facts[name], situation, new) for name, new in change.items()}
        yield InputChange(
            facts={name: condition for name, (condition, _) in described.items()},
            values={name: values for name, (_, values) in described.items()},
            answers=_apply(inputs, change),
            effort=sum(_EFFORT[rules.catalog.facts[name].change] for name in names),
        )


def _apply(inputs: FactValues, change: _Change) -> FactValues:
    return {**inputs, **{name: new.value for name, new in change.items()}}


def _try_values(
    rules: CompiledRules, inputs: FactValues, ranges: Mapping[str, Sequence[_Range]], names: Sequence[str]
) -> Iterator[_Change]:
    """Yield every combination of the ranges of facts.

    Args:
        inputs: Inputs with the new values of the preceding facts.
        ranges: Ranges of the facts that memory pressure does not depend on.
        names: Facts to change, those of memory pressure last.
    """
    if not names:
        yield {}
        return
    name, *others = names
    for new in ranges[name] if name in ranges else _list_memory_ranges(rules, inputs, name):
        for change in _try_values(rules, {**inputs, name: new.value}, ranges, others):
            yield {name: new, **change}


def _merge_ranges(changes: Sequence[_Change], name: str, current: int | None) -> list[_Change]:
    """Merge changes with adjacent ranges of a number and equal values of the other facts."""
    merged: list[_Change] = []
    for change in sorted(changes, key=lambda change: change[name].low):
        for number, other in enumerate(merged):
            below, above = other[name], change[name]
            is_same = all(other[key] == new for key, new in change.items() if key != name)
            if is_same and below.high + 1 == above.low:
                is_below = current is None or current < below.low
                merged[number] = {**other, name: replace(below if is_below else above, low=below.low, high=above.high)}
                break
        else:
            merged.append(change)
    return merged


def _leads_to(rules: CompiledRules, before: Situation, inputs: FactValues, optimizer: str) -> bool:
    """Return whether inputs are accepted, can be suggested instead of others and lead to an optimizer."""
    try:
        after = complete_situation(rules, inputs)
        return rules.defaults.is_suggested(before, after) and choose_optimizer(rules, after) == optimizer
    except InputError:
        return False


def _describe(fact: Fact, situation: Situation, new: _Range) -> tuple[str, tuple[str, ...]]:
    """Return the condition on a new value, and option values that meet it: a choice, or the ends of its range."""
    if not new.high:
        return new.text, (new.text,)
    smallest, largest = find_limits(fact)
    is_first, is_last = new.low <= smallest, new.high >= largest
    if is_first and is_last:
        return "known", (new.text,)
    step = find_step(situation, fact.id)
    low, high = (write_end(fact, new.low, new.high, step, at_low=at_low) or new.text for at_low in (True, False))
    if is_last or is_first:
        return (f">= {low}", (low,)) if is_last else (f"<= {high}", (high,))
    return f"[{low} .. {high}]", (low, high)


# -- ranges that the rules distinguish --------------------------------------------------------------------------------


def _list_ranges(rules: CompiledRules, situation: Situation, fact: str) -> Iterator[_Range]:
    """Yield the ranges of a fact that the deciding tables distinguish, except the one with the current value."""
    axis = rules.axes[fact]
    current = axis.cell(getattr(situation, fact))
    if axis.choices is not None:
        choices = (choice for cell, choice in enumerate(axis.choices) if cell != current)
        yield from (_Range(text=choice, value=parse_choice(axis, choice)) for choice in choices)
        return
    smallest, largest = find_limits(rules.catalog.facts[fact])
    for cells in find_equivalent_ranges(rules, fact):
        if current not in cells:
            (left, next_left), (previous_right, right) = axis.bounds(cells[0]), axis.bounds(cells[-1])
            low = smallest if left == float("-inf") else int(left) + (left != next_left)
            high = largest if right == float("inf") else int(right) - (right != previous_right)
            yield from _make_range(rules, situation, fact, low, high)


def _list_memory_ranges(rules: CompiledRules, inputs: FactValues, fact: str) -> Iterator[_Range]:
    """Yield the ranges of model sizes or memory limits between thresholds of memory pressure."""
    try:
        situation = complete_situation(rules, inputs)
    except InputError:
        return
    current = getattr(situation, fact)
    smallest, largest = find_limits(rules.catalog.facts[fact])
    thresholds = [value for value in _list_thresholds(rules, situation, fact) if smallest < value <= largest]
    for low, end in zip([smallest, *thresholds], [*thresholds, largest + 1], strict=True):
        if current is None or not low <= current < end:
            yield from _make_range(rules, situation, fact, low, end - 1)


def _make_range(rules: CompiledRules, situation: Situation, fact: str, low: int, high: int) -> Iterator[_Range]:
    """Yield the range of a number with the end that is nearest to the current one; nothing without such a value."""
    declared, current = rules.catalog.facts[fact], getattr(situation, fact)
    smallest, largest = find_limits(declared)
    is_above = high == largest if current is None else low > current
    text = write_end(declared, low, high, find_step(situation, fact), at_low=is_above)
    if fact == "vram_bytes" and low == smallest and high == largest:
        text = _ANY_LIMIT
    if text is not None:
        yield _Range(text=text, value=read_value(declared, text), low=low, high=high)


def _list_thresholds(rules: CompiledRules, situation: Situation, fact: str) -> list[int]:
    """Return the memory limits or model sizes at which memory pressure or a default changes."""
    if fact == "vram_bytes":
        cuts = map(int, rules.axes[fact].cuts)
        return sorted({*cuts, *list_required_bytes(rules, replace(situation, vram_bytes=None))})
    return sorted(set(list_sizes(rules, situation)))
