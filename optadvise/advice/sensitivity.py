"""Sensitivities: for each fact, the nearest value at which the rules choose another optimizer.

One fact is changed at a time. All ranges that the deciding tables distinguish are tried, so the list of single changes
is complete. Thresholds of memory pressure are computed. Each change is repeated as a user would type it before it is
reported. Changes that the rules do not suggest for the kind of model or the GPU are left out, and those with which the
run would not fit.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import Decision
from optadvise.advice.input_changes import Baseline, choose_after, complete_change, leads_to
from optadvise.advice.number_changes import search_numbers
from optadvise.advice.option_values import read_value
from optadvise.advice.plan import can_run, list_chosen_facts
from optadvise.advice.probes import MEMORY_FACTS, Probe, is_changeable, is_relevant, list_probes, parse_choice
from optadvise.core.advice_records import Sensitivity
from optadvise.core.caching import cached
from optadvise.core.records import Situation


def find_sensitivities(rules: CompiledRules, situation: Situation, decision: Decision) -> tuple[Sensitivity, ...]:
    """Return the single changes that lead to another optimizer, the easiest first.

    Args:
        rules: The compiled rules.
        situation: The complete situation, without facts derived from the optimizer.
        decision: The decision for this situation.
    """
    baseline = _start(rules, situation, decision)
    if situation.params is None and situation.vram_bytes is None:
        return _search_unsized(rules, baseline)
    fitting = (_keep_fitting(rules, situation, sensitivity) for sensitivity in _search(rules, baseline))
    return tuple(sensitivity for sensitivity in fitting if sensitivity is not None)


def _keep_fitting(rules: CompiledRules, situation: Situation, sensitivity: Sensitivity) -> Sensitivity | None:
    """Return a change with only those of its values with which the run fits; None without one."""
    ((fact, values),) = sensitivity.values.items()
    kept = tuple(text for text in values if _fits_after(rules, situation, fact, text, sensitivity.optimizer))
    if kept == values or not kept:
        return sensitivity if kept else None
    return replace(sensitivity, change={fact: ", ".join(kept)}, values={fact: kept})


def _fits_after(rules: CompiledRules, situation: Situation, fact: str, text: str, optimizer: str) -> bool:
    """Return whether a run fits after the change of a fact to a value, as it is typed."""
    axis = rules.axes[fact]
    value = read_value(rules.catalog.facts[fact], text) if axis.choices is None else parse_choice(axis, text)
    after = None if value is None else complete_change(rules, situation, fact, value)
    return after is not None and can_run(rules, after, optimizer)


def _start(rules: CompiledRules, situation: Situation, decision: Decision) -> Baseline:
    cells, optimizer = decision.cells, decision.optimizer.id
    point = tuple([cells[name] for name in rules.deciding_facts])
    is_sized = situation.params is not None and situation.vram_bytes is not None
    divisors = situation.gpus, situation.micro_batch
    key = (optimizer, situation.assumed, is_sized, *divisors, *[cells[name] for name in _list_read_facts(rules)])
    return Baseline(situation=situation, optimizer=optimizer, point=point, key=key)


@cached(1)
def _list_read_facts(rules: CompiledRules) -> tuple[str, ...]:
    """Return the facts that the deciding tables, the defaults and the contradictions read."""
    return tuple(sorted({*rules.deciding_facts, *rules.defaults.reads}))


@cached(4096)
def _search_unsized(rules: CompiledRules, baseline: Baseline) -> tuple[Sensitivity, ...]:
    """Search without a known size and limit; changes depend on cells alone and are cached by key."""
    return tuple(_search(rules, baseline))


def _search(rules: CompiledRules, baseline: Baseline) -> Iterator[Sensitivity]:
    """Yield the changes that lead to another optimizer, in order of the probes."""
    by_cells = _search_by_cells(rules, baseline)
    for probe in list_probes(rules):
        if not _is_suggested(rules, probe.fact, baseline.situation):
            continue
        if probe.fact in MEMORY_FACTS:
            yield from search_numbers(rules, baseline, probe)
        elif probe.affects_memory and baseline.is_sized:
            yield from _search_probe(rules, baseline, probe)
        else:
            yield from by_cells.get(probe.fact, ())


@cached(4096)
def _search_by_cells(rules: CompiledRules, baseline: Baseline) -> dict[str, tuple[Sensitivity, ...]]:
    """Return the sensitivities by fact, for facts whose change requires no memory estimate."""
    return {
        probe.fact: tuple(_search_probe(rules, baseline, probe))
        for probe in list_probes(rules)
        if probe.fact not in MEMORY_FACTS
        and (not probe.affects_memory or (probe.is_deciding and not baseline.is_sized))
        and _is_suggested(rules, probe.fact, baseline.situation)
    }


def _is_suggested(rules: CompiledRules, fact: str, situation: Situation) -> bool:
    """Return whether answers suggest a change of a fact; what a plan chooses by itself is not suggested."""
    if fact in list_chosen_facts(rules) and fact not in situation.stated:
        return False
    return is_changeable(rules, fact, situation) and is_relevant(rules.catalog.facts.get(fact), situation)


def _search_probe(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Sensitivity]:
    """Yield the changes of one fact that lead to another optimizer."""
    return (search_numbers if probe.axis.choices is None else _search_choices)(rules, baseline, probe)


def _search_choices(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Sensitivity]:
    """Yield the choices that lead to each other optimizer, joined by commas."""
    current = probe.axis.cell(getattr(baseline.situation, probe.fact))
    by_optimizer: dict[str, list[str]] = {}
    for cell, (choice, candidate) in enumerate(zip(probe.axis.choices or (), probe.candidates, strict=True)):
        if cell == current:
            continue
        optimizer = choose_after(rules, baseline, probe.fact, candidate.value, cell)
        if optimizer is None or optimizer == baseline.optimizer:
            continue
        if leads_to(rules, baseline.situation, probe.fact, candidate.value, optimizer):
            by_optimizer.setdefault(optimizer, []).append(choice)
    for optimizer, choices in by_optimizer.items():
        change = {probe.fact: ", ".join(choices)}
        yield Sensitivity(change=change, optimizer=optimizer, values={probe.fact: tuple(choices)})
