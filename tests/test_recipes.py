"""The rules against published recipes: how near does it come to what people really trained with?

Four points a recipe: its optimizer is the answer or among the alternatives; the peak learning rate and the weight
decay that are advised *for the recipe's optimizer* lie within a factor of three (no decay matches only no decay); the
schedule is of the same family. Points that a source does not state are not counted. The score is printed, once for the
recipes that the rules were written beside and once for those that were collected afterwards.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import yaml

from optadvise.advice import inputs
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from tests.conftest import ROOT

FLOORS = {"recipes": 0.90, "recipes_held_out": 0.84}
_COUNTS = ("params", "batch_size", "steps")


class _Numbers(yaml.SafeLoader):
    """PyYAML reads 1e-4 as a text; recipes are written with a dot, and this holds them to it."""


def recipes(name: str) -> list[dict[str, Any]]:
    text = (ROOT / "tests" / f"{name}.yaml").read_text(encoding="utf-8")
    return list(yaml.load(text, Loader=_Numbers)["recipes"])


def _within(ours: float, theirs: float) -> bool:
    if theirs == 0 or ours == 0:
        return ours == theirs
    return max(ours / theirs, theirs / ours) <= 3.0 + 1e-9


def score(rules: CompiledRules, recipe: dict[str, Any]) -> dict[str, bool]:
    """Return which points a recipe earns."""
    typed = {k: str(v) for k, v in recipe["situation"].items()}
    stated = inputs.parse_inputs(rules.catalog, typed)
    free = advise(rules, stated)
    named = {free.optimizer.id, *(a.id for a in free.alternatives)}
    points = {"optimizer": recipe["optimizer"] in named}
    pinned = advise(rules, {**stated, "optimizer": recipe["optimizer"]})
    numbers = {n.name: n.value for n in pinned.hyperparameters}
    rate, decay = numbers["lr"], numbers.get("weight_decay", 0.0)
    assert isinstance(rate, (int, float))
    assert isinstance(decay, (int, float))
    if not recipe.get("layer_decay"):  # under layer-wise decay there is no one rate to compare with
        points["lr"] = _within(rate, recipe["lr"])
    if recipe.get("weight_decay") is not None:
        points["weight_decay"] = _within(decay, recipe["weight_decay"])
    family = {name: rules.catalog.scheduler(name).family for name in rules.catalog.scheduler_ids}
    if "schedule" in recipe:
        points["schedule"] = family[pinned.schedule.id] == family[recipe["schedule"]]
    return points


def test_every_recipe_is_cited_and_new() -> None:
    found = [recipe for name in FLOORS for recipe in recipes(name)]
    assert len(found) >= 40
    assert len({r["id"] for r in found}) == len(found)
    for recipe in found:
        assert recipe["url"].startswith("https://"), recipe["id"]
        assert isinstance(recipe["lr"], float), recipe["id"]


@pytest.mark.parametrize("which", FLOORS)
def test_the_advisor_earns_its_points(rules: CompiledRules, capsys: pytest.CaptureFixture[str], which: str) -> None:
    won: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    missed = []
    for recipe in recipes(which):
        points = score(rules, recipe)
        for name, earned in points.items():
            asked[name] += 1
            won[name] += earned
        missed += [f"{recipe['id']}: {name}" for name, earned in points.items() if not earned]
    with capsys.disabled():
        parts = ", ".join(f"{name} {won[name]}/{asked[name]}" for name in asked)
        print(f"\n{which}: {won.total()}/{asked.total()} = {won.total() / asked.total():.1%} ({parts})")
    assert won.total() >= FLOORS[which] * asked.total(), "\n".join(missed)


def test_no_rule_names_one_model(rules: CompiledRules) -> None:
    """A rule that knew a recipe by name would earn points and help nobody."""
    facts = {fact for table in rules.tables.values() for rule in table.rules for fact in rule.when}
    assert facts <= set(rules.catalog.facts)
    for table in rules.tables.values():
        for rule in table.rules:
            for condition in rule.when.get("params", ()):  # sizes are ranges, never one model's count
                point = isinstance(condition, list) and condition[0] is not None and condition[0] == condition[2]
                assert not point, rule.id
