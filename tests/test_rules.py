"""The rules' own tests, and what must hold of the tables as a whole."""

from __future__ import annotations

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.memory.optimizer_state import compute_state_bytes_per_parameter
from optadvise.rule_analysis.check import prove_rules
from optadvise.rule_analysis.rule_tests import run_tests
from optadvise.rulebase.case_files import read_cases
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.rule_paths import find_shipped_rules


def test_the_shipped_rules_are_sound(rules: CompiledRules) -> None:
    report = prove_rules(rules)
    assert report.findings == ()
    assert report.proven


def test_the_shipped_rules_pass_their_own_tests(rules: CompiledRules) -> None:
    tested = run_tests(rules, read_cases([("shipped", find_shipped_rules())], rules.catalog.facts))
    assert tested.failures == ()
    assert tested.passed
    assert tested.ran >= 600


def test_the_memory_notation_of_the_guide_agrees_with_the_cards(rules: CompiledRules) -> None:
    table = rules.tables["memory_notation"]
    stated = {}
    for name in rules.catalog.optimizer_ids:
        rule = table.winner({"optimizer": rules.axes["optimizer"].cell(name)})
        if rule.notation["buffers"] is not None:
            stated[name] = float(str(rule.notation["buffers"]))
    assert stated == {
        "sgd-momentum": 1, "adam": 2, "adamw": 2, "adamw8bit": 0.5, "lion": 1, "lamb": 2, "stable-adamw": 2,
    }  # fmt: skip
    for name, buffers in stated.items():
        measured = compute_state_bytes_per_parameter(rules.catalog.optimizer(name).state) / 4
        assert measured == pytest.approx(buffers, rel=0.02), name  # block scales are the two percent


def test_every_card_and_schedule_of_the_guide_is_there(catalog: Catalog) -> None:
    optimizers = {
        "sgd", "sgd-momentum", "sgd-nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "adamw8bit",
        "paged-adamw32bit", "paged-adamw8bit", "lion", "lamb", "lars", "stable-adamw", "adan", "ranger", "adafactor",
        "muon", "lion8bit", "ademamix", "radam", "nadam", "schedule-free-adamw", "prodigy", "soap", "adamw4bit",
    }  # fmt: skip
    assert set(catalog.optimizer_ids) >= optimizers
    schedules = {
        "constant", "warmup-constant", "step", "linear", "cosine", "warmup-cosine", "warmup-linear", "one-cycle",
        "inverse-sqrt", "wsd",
    }  # fmt: skip
    assert set(catalog.scheduler_ids) >= schedules


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("AdamW8bit", "adamw8bit"), ("adamw_8bit", "adamw8bit"), ("adamw_bnb_8bit", "adamw8bit"), ("ADAMW", "adamw"),
        ("adamw_torch_fused", "adamw"), ("paged_adamw_32bit", "paged-adamw32bit"),
        ("paged_adamw_8bit", "paged-adamw8bit"), ("lion_32bit", "lion"), ("lion_8bit", "lion8bit"), ("SGD", "sgd"),
        ("sgd_momentum", "sgd-momentum"),
        ("StableAdamW", "stable-adamw"), ("PagedAdamW8bit", "paged-adamw8bit"), ("Lamb", "lamb"),
        ("RMSprop", "rmsprop"),
    ],
)  # fmt: skip
def test_any_spelling_that_a_person_would_try_resolves(catalog: Catalog, typed: str, means: str) -> None:
    assert catalog.find_optimizer(typed) == means


def test_every_name_that_a_framework_has_for_it_is_an_alias_of_its_card(catalog: Catalog) -> None:
    for framework in catalog.frameworks.values():
        for name, own in framework.optimizers.items():
            assert catalog.find_optimizer(own.name) == name, framework.id
        for name, schedule in framework.schedules.items():
            assert name in catalog.scheduler_ids
            assert "$" not in schedule.name
