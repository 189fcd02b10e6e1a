"""Score of the rules on published recipes.

Four points per recipe: its optimizer is recommended or an alternative; the peak learning rate and the weight decay that
are recommended *for the recipe's optimizer* are within a factor of three (zero weight decay matches only zero); the
schedule has the same family. Points that a source does not report are not counted. The score is printed for the recipes
that the rules were written with and for recipes that were collected later (held out).
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

MIN_SCORES = {"recipes": 0.90, "recipes_held_out": 0.84}
_COUNTS = ("params", "batch_size", "steps")


class _Numbers(yaml.SafeLoader):
    """PyYAML loader: it reads 1e-4 as a string, so recipes must write numbers with a dot."""


def recipes(name: str) -> list[dict[str, Any]]:
    text = (ROOT / "tests" / f"{name}.yaml").read_text(encoding="utf-8")
    return list(yaml.load(text, Loader=_Numbers)["recipes"])


def _is_close(value: float, published: float) -> bool:
    if published == 0 or value == 0:
        return value == published
    return max(value / published, published / value) <= 3.0 + 1e-9


def score(rules: CompiledRules, recipe: dict[str, Any]) -> dict[str, bool]:
    """Return the points of a recipe by name."""
    options = {k: str(v) for k, v in recipe["situation"].items()}
    parsed = inputs.parse_inputs(rules.catalog, options)
    free = advise(rules, parsed)
    recommended = {free.optimizer.id, *(a.id for a in free.alternatives)}
    points = {"optimizer": recipe["optimizer"] in recommended}
    pinned = advise(rules, {**parsed, "optimizer": recipe["optimizer"]})
    numbers = {n.name: n.value for n in pinned.hyperparameters}
    lr, weight_decay = numbers["lr"], numbers.get("weight_decay", 0.0)
    assert isinstance(lr, (int, float))
    assert isinstance(weight_decay, (int, float))
    if not recipe.get("layer_decay"):  # layer-wise decay has no single learning rate to compare
        points["lr"] = _is_close(lr, recipe["lr"])
    if recipe.get("weight_decay") is not None:
        points["weight_decay"] = _is_close(weight_decay, recipe["weight_decay"])
    family = {name: rules.catalog.scheduler(name).family for name in rules.catalog.scheduler_ids}
    if "schedule" in recipe:
        points["schedule"] = family[pinned.schedule.id] == family[recipe["schedule"]]
    return points


def test_recipes_are_cited_and_unique() -> None:
    all_recipes = [recipe for name in MIN_SCORES for recipe in recipes(name)]
    assert len(all_recipes) >= 40
    assert len({r["id"] for r in all_recipes}) == len(all_recipes)
    for recipe in all_recipes:
        assert recipe["url"].startswith("https://"), recipe["id"]
        assert isinstance(recipe["lr"], float), recipe["id"]


@pytest.mark.parametrize("which", MIN_SCORES)
def test_score_reaches_its_minimum(rules: CompiledRules, capsys: pytest.CaptureFixture[str], which: str) -> None:
    earned: Counter[str] = Counter()
    possible: Counter[str] = Counter()
    missed = []
    for recipe in recipes(which):
        points = score(rules, recipe)
        for name, is_earned in points.items():
            possible[name] += 1
            earned[name] += is_earned
        missed += [f"{recipe['id']}: {name}" for name, is_earned in points.items() if not is_earned]
    with capsys.disabled():
        parts = ", ".join(f"{name} {earned[name]}/{possible[name]}" for name in possible)
        print(f"\n{which}: {earned.total()}/{possible.total()} = {earned.total() / possible.total():.1%} ({parts})")
    assert earned.total() >= MIN_SCORES[which] * possible.total(), "\n".join(missed)


def test_no_rule_matches_a_single_model_size(rules: CompiledRules) -> None:
    """A rule for one recipe would raise the score without helping users."""
    facts = {fact for table in rules.tables.values() for rule in table.rules for fact in rule.when}
    assert facts <= set(rules.catalog.facts)
    for table in rules.tables.values():
        for rule in table.rules:
            for condition in rule.when.get("params", ()):  # sizes are ranges, not single values
                is_point = isinstance(condition, list) and condition[0] is not None and condition[0] == condition[2]
                assert not is_point, rule.id
