"""Sensitivities and why-not explanations, compared with brute force."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, product
from random import Random
from typing import Any

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer, decide
from optadvise.advice.plan import can_run, list_chosen_facts
from optadvise.advice.probes import is_relevant
from optadvise.advice.recommend import advise, recommend
from optadvise.core.errors import InputError
from optadvise.core.records import Situation
from optadvise.rule_analysis.why_not import explain_decisions, explain_why_not
from tests.cli import optadvise
from tests.conftest import examples, few, rotated

# Few sizes, so that few memory estimates are computed; none is near a threshold of memory pressure.
NUMBERS = {"params": (10**8, 7 * 10**9), "vram_bytes": (8 * 2**30, 80 * 2**30), "batch_size": (64, 256, 2048, 16384)}
SITUATIONS = examples(50)


def situations(rules: CompiledRules, seed: int) -> Iterator[dict[str, Any]]:
    random = Random(seed)
    facts = [name for name in rules.deciding_facts if rules.catalog.facts[name].flag is not None]
    count = 0
    while count < SITUATIONS:
        stated: dict[str, Any] = {}
        for name in (*facts, "params", "vram_bytes"):
            if random.random() < (0.2 if name in ("params", "vram_bytes", "sparse_gradients") else 0.35):
                stated[name] = random.choice(NUMBERS.get(name) or list(values(rules, name)))
        try:
            complete_situation(rules, stated)
        except InputError:
            continue
        count += 1
        yield stated


def values(rules: CompiledRules, name: str) -> Iterator[Any]:
    """Yield a value of every cell of a fact that the user can specify."""
    axis = rules.axes[name]
    if axis.choices is not None:
        yield from (choice == "true" for choice in axis.choices) if axis.choices == ("true", "false") else axis.choices
        return
    for cell in range(axis.unknown_cell):
        if axis.every >> cell & 1:
            yield int(axis.sample_value(cell))


def choose(rules: CompiledRules, before: Situation, stated: dict[str, Any]) -> str | None:
    """Return the recommended optimizer; None for inputs that contradict each other or that answers do not suggest."""
    try:
        after = complete_situation(rules, stated)
    except InputError:
        return None
    return choose_optimizer(rules, after) if rules.defaults.is_suggested(before, after) else None


def changeable(rules: CompiledRules, situation: Situation) -> list[str]:
    """Return the facts whose change is reported.

    Fixed facts are reported only if they were assumed; facts that the plan of a run chooses, only if they were stated.
    """
    facts = rules.catalog.facts
    chosen = {*list_chosen_facts(rules)} - {*situation.stated}
    return [
        name for name in rules.deciding_facts
        if facts[name].flag is not None
        and name not in chosen
        and (facts[name].change != "fixed" or name in situation.assumed or name == "stability")
    ]  # fmt: skip


def list_expected(rules: CompiledRules, situation: Situation, stated: dict[str, Any], name: str) -> set[str | None]:
    """Return the optimizers to which a change of a fact leads; of a number, the nearest in each direction."""
    current, before = getattr(situation, name), choose_optimizer(rules, situation)
    ends = [(value, choose(rules, situation, {**stated, name: value})) for value in values(rules, name)]
    ends = [(value, end) for value, end in ends if end not in (None, before)]
    if rules.axes[name].choices is None:
        fact = rules.catalog.facts[name]
        within = fact.suggest_within or float("inf")
        below = [pair for pair in ends if current / within <= pair[0] < current][-1:] if fact.suggest_less else []
        ends = [*below, *[pair for pair in ends if current < pair[0] <= current * within][:1]]
    return {end for value, end in ends if fits(rules, {**stated, name: value}, end)}


def fits(rules: CompiledRules, stated: dict[str, Any], optimizer: str | None) -> bool:
    """Return whether a run fits as it is planned for an optimizer."""
    return can_run(rules, complete_situation(rules, stated), optimizer or "")


@pytest.mark.parametrize("seed", few(1, range(10, 26)))
def test_sensitivities_match_brute_force_over_single_facts(rules: CompiledRules, seed: int) -> None:
    for stated in situations(rules, seed):
        situation = complete_situation(rules, stated)
        # With both sizes, the thresholds of memory pressure are nearer than those of the tables.
        sizes = {"params", "vram_bytes"} if {"params", "vram_bytes"} <= {*stated} else set()
        numbers = {name for name in changeable(rules, situation) if rules.axes[name].choices is None}
        left_out = sizes | {name for name in numbers if getattr(situation, name) is None}
        reported = {
            (name, sensitivity.optimizer)
            for sensitivity in recommend(rules, situation).sensitivities
            for name in sensitivity.change
            if name in rules.deciding_facts and name not in left_out
        }
        expected = {
            (name, end)
            for name in changeable(rules, situation)
            if name not in left_out and is_relevant(rules.catalog.facts[name], situation)
            for end in list_expected(rules, situation, stated, name)
        }
        assert reported == expected, stated


@pytest.mark.parametrize(
    ("seed", "part"),  # some seeds take minutes
    [
        *rotated(1, [(30, part) for part in range(4)]),
        *few(0, [(seed, part) for seed in range(31, 38) for part in range(4)]),
    ],
)
def test_smallest_changes_match_brute_force_over_pairs(rules: CompiledRules, seed: int, part: int) -> None:
    random = Random(seed)
    targets = "adamw", "lamb", "lion", "sgd-momentum", "adam", "stable-adamw", "ranger", "adagrad"
    cases = [(stated, random.choice(targets)) for stated in situations(rules, seed)]
    for stated, target in cases[part::4]:
        why = explain_why_not(rules, stated, target)
        if why.answer == target:
            assert why.changes == ()
            continue
        for change in why.changes:  # each reaches the target and lists its changes
            assert advise(rules, change.answers).optimizer.id == target, (stated, change)
            assert {n for n, v in change.answers.items() if stated.get(n) != v} == set(change.facts)
        count = count_changes(rules, stated, target)
        if count is not None:
            assert why.changes, (stated, target)
            assert len(why.changes[0].facts) <= count, (stated, target, why.changes)
        if why.changes and len(why.changes[0].facts) <= 2 and not {"params", "vram_bytes"} & set(why.changes[0].facts):
            assert count == len(why.changes[0].facts), (stated, target, why.changes)


def count_changes(rules: CompiledRules, stated: dict[str, Any], target: str) -> int | None:
    """Return the smallest number of changed facts, 1 or 2; None if two are not enough."""
    situation = complete_situation(rules, stated)
    names = changeable(rules, situation)
    for count in (1, 2):
        for changed in combinations(names, count):
            for candidate in product(*(list(values(rules, name)) for name in changed)):
                if choose(rules, situation, {**stated, **dict(zip(changed, candidate, strict=True))}) == target:
                    return count
    return None


@pytest.mark.parametrize("part", rotated(1, range(4)))
def test_reported_misses_are_not_met(rules: CompiledRules, part: int) -> None:
    for stated in [*situations(rules, 4)][part::4]:
        why = explain_why_not(rules, stated, "lion")
        cells = decide(rules, complete_situation(rules, stated)).cells
        for miss in (*why.rows, *why.concerns.values()):
            assert miss.missed or miss.beaten_by is not None
            for condition in miss.missed:
                assert cells[condition.fact] == condition.cell
                assert not condition.accepted >> condition.cell & 1


def test_closest_rules_can_be_reached_by_options(rules: CompiledRules) -> None:
    for stated in situations(rules, 5):
        situation = complete_situation(rules, stated)
        for decision in explain_decisions(rules, situation):
            for condition in (condition for miss in decision.near for condition in miss.missed):
                fact = rules.catalog.facts[condition.fact]
                assert fact.flag is not None
                assert condition.fact in changeable(rules, situation) or fact.change != "fixed"
                assert is_relevant(fact, situation)


# -- text -------------------------------------------------------------------------------------------------------------


def test_adjacent_ranges_are_one_change(rules: CompiledRules) -> None:
    limited = explain_why_not(rules, {"vram_bytes": 24 * 2**30}, "adamw")
    (sizes,) = [change.facts["params"] for change in limited.changes if "params" in change.facts]
    assert sizes.startswith("<= ")
    large = explain_why_not(rules, {"model": "cnn", "batch_size": 20_000}, "sgd-momentum")
    assert "<= 8192" in [change.facts.get("batch_size") for change in large.changes]


def test_each_derived_fact_has_a_name_that_the_output_uses(rules: CompiledRules) -> None:
    facts = rules.catalog.facts.values()
    assert all(fact.label for fact in facts if fact.flag is None)
    run = ("--model", "transformer", "--params", "7B", "--vram", "24GB")
    page = optadvise("recommend", *run, "--explain", "--why-not", "adamw").out + optadvise("show", "OPT040").out
    assert rules.catalog.facts["concern"].label in page
    assert not re.search(r"\bconcern\b(?!\.yaml)", page)


def test_a_change_brings_the_defaults_that_were_unknown_before(rules: CompiledRules) -> None:
    stated: dict[str, Any] = {"architecture": "encoder", "batch_size": 16384, "vram_bytes": 80 * 2**30}
    advice = advise(rules, stated)  # a transformer that encodes has an objective; an unknown model has none
    assert advise(rules, {**stated, "model": "transformer"}).optimizer.id == "lamb"
    changes = {text: change.optimizer for change in advice.sensitivities for text in change.values.get("model", ())}
    assert changes["transformer"] == "lamb"
