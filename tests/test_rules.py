"""Proofs and tests of the shipped rules, and consistency of tables, cards and names."""

from __future__ import annotations

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.memory.optimizer_state import compute_state_bytes_per_parameter
from optadvise.rule_analysis.check import prove_rules
from optadvise.rule_analysis.rule_tests import run_tests
from optadvise.rulebase.case_files import read_cases
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.rule_paths import find_shipped_rules


def test_shipped_rules_are_sound(rules: CompiledRules) -> None:
    report = prove_rules(rules)
    assert report.findings == ()
    assert report.proven


def test_shipped_rules_pass_their_tests(rules: CompiledRules) -> None:
    report = run_tests(rules, read_cases([("shipped", find_shipped_rules())], rules.catalog.facts))
    assert report.failures == ()
    assert report.passed
    assert report.ran >= 600


def test_memory_notation_of_the_guide_matches_the_state_in_the_cards(rules: CompiledRules) -> None:
    table = rules.tables["memory_notation"]
    guide_buffers = {}
    for name in rules.catalog.optimizer_ids:
        rule = table.winner({"optimizer": rules.axes["optimizer"].cell(name)})
        if rule.notation["buffers"] is not None:
            guide_buffers[name] = float(str(rule.notation["buffers"]))
    assert guide_buffers == {
        "sgd-momentum": 1, "adam": 2, "adamw": 2, "adamw8bit": 0.5, "lion": 1, "lamb": 2, "stable-adamw": 2,
    }  # fmt: skip
    for name, buffers in guide_buffers.items():
        measured = compute_state_bytes_per_parameter(rules.catalog.optimizer(name).state) / 4
        assert measured == pytest.approx(buffers, rel=0.02), name  # 2 percent for block scales


def test_optimizers_and_schedules_of_the_guide_exist(catalog: Catalog) -> None:
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
    ("name", "optimizer"),
    [
        ("AdamW8bit", "adamw8bit"), ("adamw_8bit", "adamw8bit"), ("adamw_bnb_8bit", "adamw8bit"), ("ADAMW", "adamw"),
        ("adamw_torch_fused", "adamw"), ("paged_adamw_32bit", "paged-adamw32bit"),
        ("paged_adamw_8bit", "paged-adamw8bit"), ("lion_32bit", "lion"), ("lion_8bit", "lion8bit"), ("SGD", "sgd"),
        ("sgd_momentum", "sgd-momentum"),
        ("StableAdamW", "stable-adamw"), ("PagedAdamW8bit", "paged-adamw8bit"), ("Lamb", "lamb"),
        ("RMSprop", "rmsprop"),
    ],
)  # fmt: skip
def test_common_spellings_resolve_to_an_optimizer(catalog: Catalog, name: str, optimizer: str) -> None:
    assert catalog.find_optimizer(name) == optimizer


def test_names_of_frameworks_are_aliases_of_the_cards(catalog: Catalog) -> None:
    for framework in catalog.frameworks.values():
        for name, entry in framework.optimizers.items():
            assert catalog.find_optimizer(entry.name) == name, framework.id
        for name, schedule in framework.schedules.items():
            assert name in catalog.scheduler_ids
            assert "$" not in schedule.name
