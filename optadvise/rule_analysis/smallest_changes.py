"""Search for the smallest changes of inputs after which the rules choose another optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer
from optadvise.advice.memory_pressure import find_largest_sizes, find_required_bytes
from optadvise.advice.option_values import find_limits, find_step, read_value, write_end
from optadvise.advice.probes import MEMORY_FACTS, find_equivalent_ranges, is_changeable, parse_choice
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, InputValue, Situation
from optadvise.rulebase.records import Fact

_EFFORT = {"free": 1, "cheap": 2, "costly": 5, "fixed": 20}  # by the `change` of a fact in rules/facts.yaml
_MAX_FACTS = 3  # maximum number of facts in a change
_ANY_LIMIT = "24GiB"


class InputChange(Struct, frozen=True):
    """Change of inputs after which the rules choose an optimizer."""

    facts: Mapping[str, str]  # conditions on the new values, by fact
    values: Mapping[str, str]  # new values as option text, by fact
    answers: FactValues  # all inputs after the change
    effort: int


class _Value(Struct, frozen=True):
    """Value to try, and the condition that describes its range."""

    value: InputValue
    text: str  # of the option
    condition: str


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
    """Yield the changes of facts that lead to an optimizer; for computed thresholds only the nearest."""
    effort = sum(_EFFORT[rules.catalog.facts[name].change] for name in names)
    listed = set()
    for change in _try_values(rules, inputs, names, optimizer, effort):
        side = tuple(
            (name, condition.split(" ", 2)[0] if name in MEMORY_FACTS else condition)
            for name, condition in change.facts.items()
        )
        if side not in listed:
            listed.add(side)
            yield change


def _try_values(
    rules: CompiledRules, inputs: FactValues, names: Sequence[str], optimizer: str, effort: int
) -> Iterator[InputChange]:
    """Yield the values of facts that lead to an optimizer, one per range that the tables distinguish."""
    computed = [name for name in names if name in MEMORY_FACTS]
    others = [name for name in names if name not in computed]
    situation = complete_situation(rules, inputs)
    for values in product(*(list(_list_values(rules, situation, name)) for name in others)):
        changed = dict(zip(others, values, strict=True))
        partial = {**inputs, **{name: value.value for name, value in changed.items()}}
        for limits in product(*(list(_list_limits(rules, partial, name)) for name in computed)):
            new_values = {**changed, **dict(zip(computed, limits, strict=True))}
            answers = {**inputs, **{name: value.value for name, value in new_values.items()}}
            if _leads_to(rules, situation, answers, optimizer):
                conditions = {name: value.condition for name, value in new_values.items()}
                texts = {name: value.text for name, value in new_values.items()}
                yield InputChange(facts=conditions, values=texts, answers=answers, effort=effort)


def _leads_to(rules: CompiledRules, before: Situation, inputs: FactValues, optimizer: str) -> bool:
    """Return whether inputs are accepted, can be suggested instead of others and lead to an optimizer."""
    try:
        after = complete_situation(rules, inputs)
    except InputError:
        return False
    return rules.defaults.is_suggested(before, after) and choose_optimizer(rules, after) == optimizer


def _list_values(rules: CompiledRules, situation: Situation, fact: str) -> Iterator[_Value]:
    """Yield a value of each range of a fact that the deciding tables distinguish, except the current one."""
    axis = rules.axes[fact]
    current = axis.cell(getattr(situation, fact))
    if axis.choices is not None:
        for cell, choice in enumerate(axis.choices):
            if cell != current:
                yield _Value(value=parse_choice(axis, choice), text=choice, condition=choice)
        return
    declared, step = rules.catalog.facts[fact], find_step(situation, fact)
    smallest, largest = find_limits(declared)
    for cells in find_equivalent_ranges(rules, fact):
        if current in cells:
            continue
        (left, next_left), (previous_right, right) = axis.bounds(cells[0]), axis.bounds(cells[-1])
        low = smallest if left == float("-inf") else int(left) + (left != next_left)
        high = largest if right == float("inf") else int(right) - (right != previous_right)
        is_above = cells[0] > current or (current == axis.unknown_cell and right == float("inf"))
        text = write_end(declared, low, high, step, at_low=is_above)
        if text is not None:
            condition = axis.format_lower_bound(cells[0]) if is_above else axis.format_upper_bound(cells[-1])
            yield _Value(value=read_value(declared, text), text=text, condition=condition)


def _list_limits(rules: CompiledRules, inputs: FactValues, fact: str) -> Iterator[_Value]:
    """Yield model sizes or memory limits on both sides of each threshold of memory pressure, the nearest first."""
    try:
        situation = complete_situation(rules, inputs)
    except InputError:
        return
    current = getattr(situation, fact)
    thresholds = _list_thresholds(rules, situation, fact)
    if fact == "vram_bytes" and current is None and not thresholds:
        yield _Value(value=read_value(rules.catalog.facts[fact], _ANY_LIMIT), text=_ANY_LIMIT, condition="known")
    for threshold in sorted(thresholds, key=lambda threshold: abs(threshold - (current or 0))):
        yield from _list_sides(rules.catalog.facts[fact], threshold, current)


def _list_thresholds(rules: CompiledRules, situation: Situation, fact: str) -> list[int]:
    """Return the memory limits or model sizes at which memory pressure or a default changes."""
    if fact == "vram_bytes":
        return find_required_bytes(rules, situation)
    cuts = (int(cut) for cut in rules.axes[fact].cuts)
    return sorted({*cuts, *(size + 1 for size in find_largest_sizes(rules, situation) if size > 0)})


def _list_sides(fact: Fact, threshold: int, current: int | None) -> Iterator[_Value]:
    """Yield the threshold and the value below it, rounded, if they are on the other side of the current value.

    The exact values follow, because a rounded one can be beyond the next threshold.
    """
    smallest, largest = find_limits(fact)
    sides = []
    if current is None or threshold > current:
        sides += [(">=", True, (threshold, largest)), (">=", True, (threshold, threshold))]
    if threshold > smallest and (current is None or threshold <= current):
        sides += [("<=", False, (smallest, threshold - 1)), ("<=", False, (threshold - 1, threshold - 1))]
    for sign, at_low, (low, high) in sides:
        text = write_end(fact, low, high, 1, at_low=at_low)
        if text is not None:
            yield _Value(value=read_value(fact, text), text=text, condition=f"{sign} {text}")
