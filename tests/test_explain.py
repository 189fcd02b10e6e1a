"""Flips, and why not another, against trying everything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from random import Random
from typing import Any

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer, decide
from optadvise.advice.recommend import advise, recommend
from optadvise.core.errors import InputError
from optadvise.core.records import Situation
from optadvise.rule_analysis.why_not import explain_why_not
from tests.conftest import examples, few

# Few sizes, so that the arithmetic of memory is done once for each; none lies near a threshold of memory pressure.
NUMBERS = {"params": (10**8, 7 * 10**9), "vram_bytes": (8 * 2**30, 80 * 2**30), "batch_size": (64, 256, 2048, 16384)}
SITUATIONS = examples(400)


def situations(rules: CompiledRules, seed: int) -> Iterator[dict[str, Any]]:
    random = Random(seed)
    facts = [name for name in rules.deciding_facts if rules.catalog.facts[name].flag is not None]
    found = 0
    while found < SITUATIONS:
        said: dict[str, Any] = {}
        for name in (*facts, "params", "vram_bytes"):
            if random.random() < (0.2 if name in ("params", "vram_bytes", "sparse_gradients") else 0.35):
                said[name] = random.choice(NUMBERS.get(name) or list(values(rules, name)))
        try:
            complete_situation(rules, said)
        except InputError:
            continue
        found += 1
        yield said


def values(rules: CompiledRules, name: str) -> Iterator[Any]:
    """Yield a value in every cell of a fact that the user may state."""
    axis = rules.axes[name]
    if axis.choices is not None:
        yield from (word == "true" for word in axis.choices) if axis.choices == ("true", "false") else axis.choices
        return
    for cell in range(axis.unknown_cell):
        if axis.every >> cell & 1:
            yield int(axis.sample_value(cell))


def chosen(rules: CompiledRules, said: dict[str, Any]) -> str | None:
    try:
        return advise(rules, said).optimizer.id
    except InputError:
        return None


def changeable(rules: CompiledRules, situation: Situation) -> list[str]:
    """Return the facts whose change is told: not those that nobody changes, unless nobody said them."""
    facts = rules.catalog.facts
    return [
        name for name in rules.deciding_facts
        if facts[name].flag is not None
        and (facts[name].change != "fixed" or name in situation.assumed or name == "stability")
    ]  # fmt: skip


@pytest.mark.parametrize("seed", few(1, [1, 2]))
def test_flips_are_what_trying_every_value_of_every_fact_finds(rules: CompiledRules, seed: int) -> None:
    for said in situations(rules, seed):
        situation = complete_situation(rules, said)
        advice = recommend(rules, situation)
        told = {
            (name, flip.optimizer)
            for flip in advice.sensitivities
            for name in flip.change
            if name in rules.deciding_facts
        }
        found: set[tuple[str, str]] = set()
        for name in changeable(rules, situation):
            words = rules.axes[name].choices is not None
            ends: list[str | None] = [chosen(rules, {**said, name: value}) for value in values(rules, name)]
            if words:
                found |= {(name, end) for end in ends if end is not None and end != advice.optimizer.id}
                continue
            # Of a number the nearest other answer on each side is told.
            here = getattr(situation, name)
            tried = list(values(rules, name))
            below = [end for value, end in zip(tried, ends, strict=True) if here is not None and value < here]
            above = [end for value, end in zip(tried, ends, strict=True) if here is not None and value > here]
            for side in (below[::-1], above) if here is not None else ():
                other = next((end for end in side if end is not None and end != advice.optimizer.id), None)
                found |= {(name, other)} if other is not None else set()
            if here is None:
                told = {pair for pair in told if pair[0] != name}
        assert told == found, said


@pytest.mark.parametrize("seed", [3])
def test_the_smallest_changes_are_what_trying_every_pair_finds(rules: CompiledRules, seed: int) -> None:
    random = Random(seed)
    for said in situations(rules, seed):
        target = random.choice(["adamw", "lamb", "lion", "sgd-momentum", "adam", "stable-adamw", "ranger", "adagrad"])
        why = explain_why_not(rules, said, target)
        if why.answer == target:
            assert why.changes == ()
            continue
        for change in why.changes:  # each leads there, and says what it changes
            assert chosen(rules, dict(change.answers)) == target, (said, change)
            assert {n for n, v in change.answers.items() if said.get(n) != v} == set(change.facts)
        found = fewest(rules, said, target)
        if found is not None:
            assert why.changes, (said, target)
            assert len(why.changes[0].facts) <= found, (said, target, why.changes)
        if why.changes and len(why.changes[0].facts) <= 2 and not {"params", "vram_bytes"} & set(why.changes[0].facts):
            assert found == len(why.changes[0].facts), (said, target, why.changes)


def fewest(rules: CompiledRules, said: dict[str, Any], target: str) -> int | None:
    """Return how many facts have to change, at most two; None where two are not enough."""
    names = changeable(rules, complete_situation(rules, said))
    for count in (1, 2):
        for some in combinations(names, count):
            for tried in product(*(list(values(rules, name)) for name in some)):
                if quickly(rules, {**said, **dict(zip(some, tried, strict=True))}) == target:
                    return count
    return None


def quickly(rules: CompiledRules, said: dict[str, Any]) -> str | None:
    try:
        return choose_optimizer(rules, complete_situation(rules, said))
    except InputError:
        return None


def test_what_is_told_as_missed_is_missed(rules: CompiledRules) -> None:
    for said in situations(rules, 4):
        why = explain_why_not(rules, said, "lion")
        cells = decide(rules, complete_situation(rules, said)).cells
        for miss in (*why.rows, *why.concerns.values()):
            assert miss.missed or miss.beaten_by is not None
            for condition in miss.missed:
                assert cells[condition.fact] == condition.cell
                assert not condition.accepted >> condition.cell & 1
