"""Changes of one number: the ranges of its values in which the rules choose another optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from math import isqrt

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import list_sized_runs
from optadvise.advice.input_changes import Baseline, choose_after, depends_on_memory, leads_to
from optadvise.advice.option_values import find_limits, find_step, read_value, write_end
from optadvise.advice.plan import list_largest_sizes, list_required_bytes
from optadvise.advice.probes import MEMORY_FACTS, Probe
from optadvise.core.advice_records import Sensitivity
from optadvise.core.records import Situation

_NARROW = 1.05  # ratio of the ends of a range of sizes that is too narrow to be useful
_USUAL = {"params": "1B", "vram_bytes": "24GB", "batch_size": "256"}  # where every value leads to the same optimizer


class Outcome(Struct, frozen=True):
    """Optimizer in a range of a number; both ends belong to the range."""

    low: int
    high: int
    optimizer: str


def search_numbers(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Sensitivity]:
    """Yield the nearest ranges below and above that lead to another optimizer.

    For an unknown number every such range is yielded; for an unknown size of the model or the memory only the lowest.
    """
    fact, current = rules.catalog.facts[probe.fact], getattr(baseline.situation, probe.fact)
    if probe.fact in MEMORY_FACTS and not _is_decided_by_memory(rules, baseline, probe.fact):
        return
    if current is None and not fact.suggest_less and _differs_at_ends(rules, baseline, probe):
        return
    for outcome in _select_outcomes(rules, baseline, probe):
        sensitivity = _describe_outcome(rules, baseline, probe, outcome)
        if sensitivity is not None:
            yield sensitivity


def _select_outcomes(rules: CompiledRules, baseline: Baseline, probe: Probe) -> list[Outcome]:
    """Return the ranges with another optimizer that answers print, in ascending order."""
    fact, current = rules.catalog.facts[probe.fact], getattr(baseline.situation, probe.fact)
    outcomes = _merge(_list_outcomes(rules, baseline, probe), _NARROW if probe.fact in MEMORY_FACTS else 1)
    others = (outcome for outcome in outcomes if outcome.optimizer != baseline.optimizer)
    if current is None:
        return [*islice(others, 1 if probe.fact in MEMORY_FACTS else None)]
    below: list[Outcome] = []
    within = fact.suggest_within or float("inf")
    for outcome in others:
        if outcome.high < current / within or outcome.low > current * within:
            continue
        if outcome.low > current:
            return [*below, outcome]
        if outcome.high < current and fact.suggest_less:
            below = [outcome]
    return below


def _is_decided_by_memory(rules: CompiledRules, baseline: Baseline, fact: str) -> bool:
    """Return whether a model size or a memory limit can change the optimizer."""
    has_default = fact in rules.defaults.triggers
    return baseline.situation.method == "full" and (has_default or depends_on_memory(rules, baseline.point))


def _differs_at_ends(rules: CompiledRules, baseline: Baseline, probe: Probe) -> bool:
    """Return whether the smallest and the largest value of a number lead to different optimizers."""
    ends = find_limits(rules.catalog.facts[probe.fact])
    return len({choose_after(rules, baseline, probe.fact, end, probe.axis.cell(end)) for end in ends}) > 1


def _list_outcomes(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Outcome]:
    """Yield the ranges of a number in which the optimizer is the same."""

    def choose(value: int) -> str:
        return choose_after(rules, baseline, probe.fact, value, probe.axis.cell(value)) or baseline.optimizer

    step = find_step(baseline.situation, probe.fact)
    fact, current = rules.catalog.facts[probe.fact], getattr(baseline.situation, probe.fact)
    low, largest = find_limits(fact)
    low = low if current is None or fact.suggest_less else current
    for start in chain(_list_starts(rules, baseline, probe), [largest + 1]):
        if not low < start <= largest + 1:
            continue
        first, last = -(-low // step), (start - 1) // step
        if probe.fact in MEMORY_FACTS:  # the starts are exact
            yield Outcome(low=low, high=start - 1, optimizer=choose(low))
        elif first <= last:
            yield from _divide(choose, first, last, step)
        low = start


def _divide(choose: Callable[[int], str], first: int, last: int, step: int) -> Iterator[Outcome]:
    """Yield ranges of multiples of a step, divided where the optimizer differs from that at their low end."""
    optimizer = choose(first * step)
    end, beyond = last, last
    if choose(last * step) != optimizer:
        end = first
        while beyond - end > 1:
            middle = min(max(isqrt(end * beyond), end + 1), beyond - 1)
            end, beyond = (middle, beyond) if choose(middle * step) == optimizer else (end, middle)
    yield Outcome(low=first * step, high=end * step, optimizer=optimizer)
    if end < last:
        yield from _divide(choose, beyond, last, step)


def _merge(outcomes: Iterable[Outcome], narrow: float) -> Iterator[Outcome]:
    """Join adjacent ranges with the same optimizer; leave out ranges whose ends have less than the ratio `narrow`."""
    merged: Outcome | None = None
    for outcome in outcomes:
        if merged is not None and merged.optimizer == outcome.optimizer:
            merged = replace(merged, high=outcome.high)
        elif outcome.high >= outcome.low * narrow:
            if merged is not None:
                yield merged
            merged = outcome
    if merged is not None:
        yield merged


# -- values at which the optimizer can change -------------------------------------------------------------------------


def _list_starts(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterable[int]:
    """Return the values from which on another optimizer is possible, in ascending order."""
    if probe.fact not in MEMORY_FACTS:
        bounds = (probe.axis.bounds(candidate.cells[0]) for candidate in probe.candidates)
        return sorted(int(left) + (left != right) for left, right in bounds if left != float("-inf"))
    if probe.fact == "vram_bytes":
        return sorted({*map(int, probe.axis.cuts), *list_required_bytes(rules, baseline.situation)})
    return list_sizes(rules, baseline.situation)


def list_sizes(rules: CompiledRules, situation: Situation) -> Iterator[int]:
    """Yield the model sizes from which on defaults or the plan differ."""
    for sizes, run in list_sized_runs(rules, situation):
        yield sizes.start
        yield from (size + 1 for size in list_largest_sizes(rules, run, sizes))


# -- text -------------------------------------------------------------------------------------------------------------


def _describe_outcome(rules: CompiledRules, baseline: Baseline, probe: Probe, outcome: Outcome) -> Sensitivity | None:
    """Return the change to a range, with values that can be typed; None if they do not lead to its optimizer."""
    fact, situation, name = rules.catalog.facts[probe.fact], baseline.situation, probe.fact
    step = find_step(situation, name)
    ends = [write_end(fact, outcome.low, outcome.high, step, at_low=at_low) for at_low in (True, False)]
    low, high = (text or "" for text in ends)
    current = getattr(situation, name)
    is_above = current is None or current < outcome.low
    smallest, largest = find_limits(fact)
    is_first, is_last = outcome.low < smallest + step, outcome.high > largest - step
    near, far = (high, low) if is_first or not is_above else (low, high)
    if not near or not _holds(rules, baseline, probe, outcome, near):
        return None
    if not _holds(rules, baseline, probe, outcome, far):
        condition, values = near, [near]
    elif is_first and is_last:
        condition, values = "known", [_USUAL[name]]
    elif is_last:
        condition, values = (f"> {outcome.low - 1:g}" if outcome.low - 1 in probe.axis.cuts else f">= {low}"), [low]
    elif is_first:
        condition, values = f"<= {high}", [high]
    else:
        condition, values = f"[{low} .. {high}]", [low, high]
    return Sensitivity(change={name: condition}, optimizer=outcome.optimizer, values={name: tuple(values)})


def _holds(rules: CompiledRules, baseline: Baseline, probe: Probe, outcome: Outcome, text: str) -> bool:
    """Return whether a value, as it is typed, leads to the optimizer of a range."""
    value = read_value(rules.catalog.facts[probe.fact], text)
    return value is not None and leads_to(rules, baseline.situation, probe.fact, value, outcome.optimizer)
