"""Sensitivities: for each fact, the nearest value at which the rules choose another optimizer.

One fact is changed at a time. All ranges that the deciding tables distinguish are tried, so the list of single changes
is complete. Thresholds of memory pressure are computed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import change_situation
from optadvise.advice.decide import Decision, decide_at
from optadvise.advice.memory_pressure import classify_pressure, find_largest_sizes, find_required_bytes
from optadvise.advice.probes import MEMORY_FACTS, Probe, is_changeable, list_probes
from optadvise.core.caching import cached
from optadvise.core.records import Sensitivity, Situation
from optadvise.core.units import show_bytes, show_count
from optadvise.memory.inputs import ESTIMATE_FACTS


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
    return tuple(_search(rules, baseline))


def _start(rules: CompiledRules, situation: Situation, decision: Decision) -> Baseline:
    cells, optimizer = decision.cells, decision.optimizer.id
    point = tuple([cells[name] for name in rules.deciding_facts])
    is_sized = situation.params is not None and situation.vram_bytes is not None
    key = (optimizer, situation.assumed, is_sized, *[cells[name] for name in _list_read_facts(rules)])
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
        if not is_changeable(rules, probe.fact, baseline.situation):
            continue
        if probe.fact in MEMORY_FACTS:
            yield from _search_thresholds(rules, baseline, probe)
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
        and is_changeable(rules, probe.fact, baseline.situation)
    }


# -- the search -------------------------------------------------------------------------------------------------------


def _search_probe(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Sensitivity]:
    """Yield the changes of one fact that lead to another optimizer."""
    return (_search_numbers if probe.axis.choices is None else _search_choices)(rules, baseline, probe)


def _search_choices(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Sensitivity]:
    """Yield the choices that lead to each other optimizer, joined by commas."""
    current = probe.axis.cell(getattr(baseline.situation, probe.fact))
    by_optimizer: dict[str, list[str]] = {}
    for cell, (choice, candidate) in enumerate(zip(probe.axis.choices or (), probe.candidates, strict=True)):
        if cell == current:
            continue
        optimizer = _choose_after(rules, baseline, probe.fact, candidate.value, cell)
        if optimizer is not None and optimizer != baseline.optimizer:
            by_optimizer.setdefault(optimizer, []).append(choice)
    for optimizer, choices in by_optimizer.items():
        yield Sensitivity(change={probe.fact: ", ".join(choices)}, optimizer=optimizer)


def _search_numbers(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Sensitivity]:
    """Yield the nearest range below and above that leads to another optimizer, as a condition."""
    axis, ranges = probe.axis, [candidate.cells for candidate in probe.candidates]
    value = getattr(baseline.situation, probe.fact)
    current = None if value is None else next(i for i, cells in enumerate(ranges) if axis.cell(value) in cells)
    optimizers = [
        baseline.optimizer if i == current
        else _choose_after(rules, baseline, probe.fact, candidate.value, candidate.cells[0]) or baseline.optimizer
        for i, candidate in enumerate(probe.candidates)
    ]  # fmt: skip
    differing = [i for i, optimizer in enumerate(optimizers) if optimizer != baseline.optimizer]
    if current is None:  # unknown value: only ranges at the ends of the axis are conditions
        below = differing[:1] if differing[:1] == [0] else []
        above = [i for i in differing if i > 0 and set(optimizers[i:]) == {optimizers[i]}]
    else:
        below = [i for i in differing if i < current]
        above = [i for i in differing if i > current]
    if below:
        yield Sensitivity(
            change={probe.fact: axis.format_upper_bound(ranges[below[-1]][-1])}, optimizer=optimizers[below[-1]]
        )
    if above:
        yield Sensitivity(
            change={probe.fact: axis.format_lower_bound(ranges[above[0]][0])}, optimizer=optimizers[above[0]]
        )


def _choose_after(rules: CompiledRules, baseline: Baseline, fact: str, value: Any, cell: int) -> str | None:
    """Return the optimizer after one change; None if the change contradicts another input."""
    changes = rules.defaults.follow_change(baseline.situation, fact, value)
    if changes is None:
        return None
    point, positions = list(baseline.point), _find_positions(rules)
    for name, new in changes.items():
        if name in positions:
            point[positions[name]] = cell if name == fact else rules.axes[name].cell(new)
    can_compute = baseline.is_sized or fact in MEMORY_FACTS
    if can_compute and not ESTIMATE_FACTS.isdisjoint(changes) and _depends_on_memory(rules, point):
        pressure = classify_pressure(rules, change_situation(rules, baseline.situation, changes))
        point[positions["memory"]] = rules.axes["memory"].cell(pressure)
    return str(decide_at(rules, tuple(point)).optimizer.choice.chosen)


@cached(1)
def _find_positions(rules: CompiledRules) -> dict[str, int]:
    """Return the index of each deciding fact in a point."""
    return {name: index for index, name in enumerate(rules.deciding_facts)}


def _depends_on_memory(rules: CompiledRules, point: Sequence[int]) -> bool:
    """Return whether the optimizer depends on memory pressure if all other facts are fixed."""
    position = _find_positions(rules).get("memory")
    if position is None:
        return False
    return _count_optimizers(rules, (*point[:position], 0, *point[position + 1 :]), position) > 1


@cached(8192)
def _count_optimizers(rules: CompiledRules, point: tuple[int, ...], position: int) -> int:
    """Count the optimizers over all values of one fact if all other facts are fixed."""
    fact = rules.deciding_facts[position]
    return len({
        decide_at(rules, (*point[:position], cell, *point[position + 1 :])).optimizer.choice.chosen
        for cell in range(rules.axes[fact].unknown_cell)
    })  # fmt: skip


# -- thresholds of memory pressure ------------------------------------------------------------------------------------


class Threshold(Struct, frozen=True):
    """A value at which memory pressure or a default can change."""

    value: int
    above: str  # condition for values at or above it
    below: str  # condition for values below it


def _search_thresholds(rules: CompiledRules, baseline: Baseline, probe: Probe) -> Iterator[Sensitivity]:
    """Yield the nearest values above and below at which memory pressure leads to another optimizer."""
    fact, situation = probe.fact, baseline.situation
    is_triggering = fact in rules.defaults.triggers
    if situation.method != "full" or not (is_triggering or _depends_on_memory(rules, baseline.point)):
        return
    if fact == "params" and situation.shape is not None:
        return  # the size follows from the shape
    thresholds = _list_thresholds(rules, situation, fact)
    current = getattr(situation, fact)
    if current is None:
        above: list[Threshold] = []
        below = _drop_repeated(thresholds[::-1])[: 1 if fact == "vram_bytes" else None]
    else:
        above = _drop_repeated([threshold for threshold in thresholds if threshold.value > current])
        below = _drop_repeated([threshold for threshold in thresholds[::-1] if threshold.value <= current])
    sides = (
        (_try_value(rules, baseline, fact, threshold.value, threshold.above) for threshold in above),
        (_try_value(rules, baseline, fact, threshold.value - 1, threshold.below) for threshold in below),
    )
    for side in sides:
        yield from islice((sensitivity for sensitivity in side if sensitivity is not None), 1)


def _try_value(rules: CompiledRules, baseline: Baseline, fact: str, value: int, condition: str) -> Sensitivity | None:
    """Return the sensitivity for a value and its condition; None if the optimizer does not change."""
    optimizer = _choose_after(rules, baseline, fact, value, rules.axes[fact].cell(value))
    if optimizer is None or optimizer == baseline.optimizer:
        return None
    return Sensitivity(change={fact: condition}, optimizer=optimizer)


def _list_thresholds(rules: CompiledRules, situation: Situation, fact: str) -> list[Threshold]:
    """Return the memory limits, or the model sizes, at which memory pressure or a default changes, sorted."""
    if fact == "vram_bytes":
        required = find_required_bytes(rules, situation)
        if not required and situation.vram_bytes is None:
            return [Threshold(value=2, above="", below="any limit")]
        thresholds = [
            Threshold(value=n, above=f"at least {show_bytes(n)}", below=f"under {show_bytes(n)}") for n in required
        ]
    else:
        cuts = [int(cut) for cut in rules.axes[fact].cuts]
        thresholds = [
            Threshold(value=n, above=f"at least {show_count(n)}", below=f"under {show_count(n)}") for n in cuts
        ]
        sizes = [n for n in find_largest_sizes(rules, situation) if n > 0]
        thresholds += [
            Threshold(value=n + 1, above=f"over {show_count(n)}", below=f"up to {show_count(n)}") for n in sizes
        ]
    return sorted(thresholds, key=lambda threshold: threshold.value)


def _drop_repeated(thresholds: Sequence[Threshold]) -> list[Threshold]:
    """Drop thresholds whose rounded text repeats in a later one."""
    texts = [(threshold.above, threshold.below) for threshold in thresholds]
    return [threshold for i, threshold in enumerate(thresholds) if texts[i] not in texts[i + 1 :]]
