"""Search for the smallest changes of inputs after which the rules choose another optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer
from optadvise.advice.memory_pressure import find_largest_sizes, find_required_bytes
from optadvise.advice.probes import MEMORY_FACTS, find_equivalent_ranges, is_changeable, parse_choice
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, InputValue, Situation
from optadvise.rule_analysis.inputs_of_point import format_memory

_EFFORT = {"free": 1, "cheap": 2, "costly": 5, "fixed": 20}  # by the `change` of a fact in rules/facts.yaml
_MAX_FACTS = 3  # maximum number of facts in a change
_ANY_LIMIT = 24 * 2**30  # bytes
_MIB = 2**20


class InputChange(Struct, frozen=True):
    """Change of inputs after which the rules choose an optimizer."""

    facts: Mapping[str, str]  # conditions on the new values, by fact
    answers: FactValues  # all inputs after the change
    effort: int


class _Value(Struct, frozen=True):
    """Value to try, and the condition that describes its range."""

    value: InputValue
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
            if _leads_to(rules, answers, optimizer):
                conditions = {name: value.condition for name, value in new_values.items()}
                yield InputChange(facts=conditions, answers=answers, effort=effort)


def _leads_to(rules: CompiledRules, inputs: FactValues, optimizer: str) -> bool:
    try:
        return choose_optimizer(rules, complete_situation(rules, inputs)) == optimizer
    except InputError:
        return False


def _list_values(rules: CompiledRules, situation: Situation, fact: str) -> Iterator[_Value]:
    """Yield a value of each range of a fact that the deciding tables distinguish, except the current one."""
    axis = rules.axes[fact]
    current = axis.cell(getattr(situation, fact))
    if axis.choices is not None:
        for cell, choice in enumerate(axis.choices):
            if cell != current:
                yield _Value(value=parse_choice(axis, choice), condition=choice)
        return
    for cells in find_equivalent_ranges(rules, fact):
        if current not in cells:
            first, last = cells[0], cells[-1]
            is_above = first > current or (current == axis.unknown_cell and axis.bounds(last)[1] == float("inf"))
            left, right = axis.bounds(first if is_above else last)
            edge = left if left == right else left + 1 if is_above else right - 1
            condition = axis.format_lower_bound(first) if is_above else axis.format_upper_bound(last)
            yield _Value(value=max(1, int(edge)), condition=condition)


def _list_limits(rules: CompiledRules, inputs: FactValues, fact: str) -> Iterator[_Value]:
    """Yield model sizes or memory limits on both sides of each threshold of memory pressure, the nearest first."""
    try:
        situation = complete_situation(rules, inputs)
    except InputError:
        return
    current = getattr(situation, fact)
    thresholds = _list_thresholds(rules, situation, fact)
    if fact == "vram_bytes" and current is None and not thresholds:
        yield _Value(value=_ANY_LIMIT, condition="any limit")
    for threshold in sorted(thresholds, key=lambda threshold: abs(threshold - (current or 0))):
        yield from _list_sides(fact, threshold, current)


def _list_thresholds(rules: CompiledRules, situation: Situation, fact: str) -> list[int]:
    """Return the memory limits (whole MiB, in bytes) or model sizes at which memory pressure or a default changes."""
    if fact == "vram_bytes":
        return sorted({-(-required // _MIB) * _MIB for required in find_required_bytes(rules, situation)})
    cuts = (int(cut) for cut in rules.axes[fact].cuts)
    return sorted({*cuts, *(size + 1 for size in find_largest_sizes(rules, situation) if size > 0)})


def _list_sides(fact: str, threshold: int, current: int | None) -> Iterator[_Value]:
    """Yield the threshold and the value below it, if they are on the other side of the current value."""
    is_limit = fact == "vram_bytes"
    below = threshold - (_MIB if is_limit else 1)
    if current is None or threshold > current:
        shown = format_memory(threshold) if is_limit else f"{threshold:,}"
        yield _Value(value=threshold, condition=f"at least {shown}")
    if below > 0 and (current is None or threshold <= current):
        condition = f"at most {format_memory(below)}" if is_limit else f"under {threshold:,}"
        yield _Value(value=below, condition=condition)
