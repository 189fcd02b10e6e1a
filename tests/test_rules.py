"""The rules' own tests, and what must hold of the tables as a whole."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from optadvise.advisor import Advisor
from optadvise.catalog import Catalog
from optadvise.catalog.cases import read_cases
from optadvise.catalog.load import shipped_rules
from optadvise.errors import InputError
from optadvise.memory import state_bytes_per_parameter
from optadvise.rulebook.check import check
from optadvise.rulebook.examples import rows, run


def test_the_shipped_rules_are_sound(advisor: Advisor) -> None:
    report = check(advisor)
    assert report.findings == ()
    assert report.proven


def test_the_shipped_rules_pass_their_own_tests(advisor: Advisor) -> None:
    tested = run(advisor, read_cases([("shipped", shipped_rules())], advisor.catalog.facts))
    assert tested.failures == ()
    assert tested.passed
    assert tested.ran >= 600


def test_every_rule_fires_for_some_situation(advisor: Advisor) -> None:
    """A rule that no situation reaches is dead, whatever its own examples say."""
    facts = {name: fact for name, fact in advisor.catalog.facts.items() if "flag" in fact}
    # Few sizes, so that the arithmetic of memory is done once for each.
    numbers = {"params": (10**7, 10**8, 3 * 10**8, 10**9, 1_300_000_000, 8 * 10**9, 10**11),
               "vram_bytes": (2**30, 8 * 2**30, 24 * 2**30, 80 * 2**30),
               "batch_size": (1, 32, 256, 512, 1024, 8192, 20_000), "gpus": (1, 2, 16), "lora_rank": (8, 64),
               "steps": (200, 5000, 10**5), "micro_batch": (1,), "seq_len": (2048,), "image_size": (224,)}  # fmt: skip
    wanted = {rule.id for table in advisor.tables.values() for rule in rows(table)}
    fired = set()
    for name in advisor.catalog.optimizer_ids:  # this table is read by `show`
        fired.add(advisor.tables["memory_notation"].winner({"optimizer": advisor.axes["optimizer"].cell(name)}).id)
    random = Random(0)
    for _ in range(60_000):
        answers: dict[str, Any] = {}
        for name, fact in facts.items():
            if random.random() < 0.45:
                word = random.choice(list(fact["values"])) if "values" in fact else None
                answers[name] = random.choice(numbers[name]) if word is None else word
        if answers.get("method", "full") == "full":
            answers.pop("lora_rank", None)
        answers["sparse_gradients"] = random.random() < 0.1
        answers["vendor"] = random.choice(("nvidia", "nvidia", "apple"))
        for name in ("seq_len", "image_size", "gradient_release", "clipping", "offload"):
            if random.random() < 0.8:
                answers.pop(name, None)
        if random.random() < 0.3:
            answers["optimizer"] = random.choice(advisor.catalog.optimizer_ids)
        try:
            advice = advisor.recommend(advisor.situation(answers))
        except InputError:
            continue
        fired |= {t.rule for t in advice.trace} | {w.id for w in advice.warnings}
        fired |= {entry.rule for number in advice.hyperparameters for entry in number.ledger}
        if wanted <= fired:
            return
    assert wanted <= fired, sorted(wanted - fired)


def test_the_memory_notation_of_the_guide_agrees_with_the_cards(advisor: Advisor) -> None:
    table = advisor.tables["memory_notation"]
    stated = {}
    for name in advisor.catalog.optimizer_ids:
        rule = table.winner({"optimizer": advisor.axes["optimizer"].cell(name)})
        if rule.then["buffers"] is not None:
            stated[name] = float(rule.then["buffers"])
    assert stated == {
        "sgd-momentum": 1, "adam": 2, "adamw": 2, "adamw8bit": 0.5, "lion": 1, "lamb": 2, "stable-adamw": 2,
    }  # fmt: skip
    for name, buffers in stated.items():
        measured = state_bytes_per_parameter(advisor.catalog.optimizer(name).state) / 4
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


def test_every_hugging_face_name_is_an_alias_of_its_card(catalog: Catalog) -> None:
    for name in catalog.optimizer_ids:
        hf = catalog.optimizer(name).huggingface
        if hf is not None:
            assert catalog.find_optimizer(hf) == name
