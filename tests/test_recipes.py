"""The advice against practice: published runs of `rules/recipes/` and measured optima of learning rates."""

from __future__ import annotations

import json

import pytest

from optadvise.advice import inputs
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.errors import InputError
from optadvise.core.json_text import to_json_object
from tests import recipe_scores
from tests.cli import optadvise
from tests.recipe_scores import summarize

# Shares of what the best single answers match, for the runs that the rules may use and for those held out. The aim is
# 0.9 for each part and 0.8 for each kind of model, which only the optimizers reach so far. Most misses are learning
# rates of small language models, which are published several times below the measured optimum, and habits of one
# laboratory.
MIN_SHARES = {False: 0.84, True: 0.76}
MIN_OPTIMIZERS = 0.9


def test_runs_are_many_and_a_third_is_held_out(rules: CompiledRules) -> None:
    assert len(rules.catalog.recipes) >= 300
    held_out = sum(map(recipe_scores.is_held_out, rules.catalog.recipes))
    assert held_out / len(rules.catalog.recipes) == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.usefixtures("without_sensitivities")
def test_first_answers_agree_with_published_runs(rules: CompiledRules, capsys: pytest.CaptureFixture[str]) -> None:
    """One test, because scoring takes long: the shares, the runs that can be asked, and the page of the documents."""
    scores = {part: recipe_scores.score_all(rules, held_out=part) for part in (False, True)}
    for part, answers in scores.items():
        with capsys.disabled():
            print(f"\n{recipe_scores.format_table(rules, answers)}")
        earned, _, ceiling = summarize(rules, answers)
        assert earned.total() >= MIN_SHARES[part] * ceiling.total()
        assert earned["optimizer"] >= MIN_OPTIMIZERS * ceiling["optimizer"]
    refused = [one.recipe.id for part in scores.values() for one in part if one.refused]
    assert len(refused) <= 0.1 * sum(map(len, scores.values())), refused
    page = recipe_scores.write_page(rules, scores[False], scores[True])
    assert recipe_scores.PAGE.read_text(encoding="utf-8") == page


@pytest.mark.parametrize("size", ["params", "params_with_embeddings"])
def test_rates_are_at_the_measured_optimum(rules: CompiledRules, size: str) -> None:
    inside, rows = recipe_scores.count_rates_in_band(rules, size)
    assert inside >= 0.85 * rows


def test_names_say_what_the_run_is(rules: CompiledRules) -> None:
    """What the authors would type has the facts of the run."""
    for recipe in rules.catalog.recipes:
        try:
            facts = inputs.parse_inputs(rules.catalog, recipe_scores.ask(recipe))
        except InputError:  # counted by the test of the first answers
            continue
        for name in ("model", "architecture", "objective"):
            if name in facts and getattr(recipe, name) is not None:
                assert facts[name] == getattr(recipe, name), (recipe.id, name)


def test_no_rule_matches_a_single_model_size(rules: CompiledRules) -> None:
    """A rule for one recipe would raise the score without helping users."""
    facts = {fact for table in rules.tables.values() for rule in table.rules for fact in rule.when}
    assert facts <= set(rules.catalog.facts)
    for table in rules.tables.values():
        for rule in table.rules:
            for condition in rule.when.get("params", ()):  # sizes are ranges, not single values
                is_point = isinstance(condition, list) and condition[0] is not None and condition[0] == condition[2]
                assert not is_point, rule.id


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("dpo", {"task": "dpo"}),
        ("qlora", {"method": "qlora"}),
        ("cnn", {"model": "cnn"}),
        ("bert", {"model": "transformer", "architecture": "encoder"}),
    ],
)
def test_listed_runs_have_the_selected_facts(rules: CompiledRules, name: str, facts: dict[str, str]) -> None:
    listed = json.loads(optadvise("list", "--recipes", "--for", name, "--json").out)["recipes"]
    expected = {recipe.id for recipe in rules.catalog.recipes if facts.items() <= to_json_object(recipe).items()}
    assert {recipe["id"] for recipe in listed} == expected != set()
