"""Property tests: every valid situation has a consistent recommendation, and every other input is rejected."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.option_values import read_value
from optadvise.advice.recommend import advise, recommend
from optadvise.core.advice_records import AdvisedHyperparameter
from optadvise.core.errors import InputError
from optadvise.core.json_text import to_json_object
from optadvise.core.records import InputValue, Situation
from optadvise.core.units import parse_bytes, parse_count
from optadvise.render.documents import build_recommendation
from optadvise.rulebase.catalog import load
from tests.cli import optadvise
from tests.conftest import examples
from tests.test_cli import SCHEMA

ADVISOR = CompiledRules(load())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FACTS = {name: fact for name, fact in ADVISOR.catalog.facts.items() if fact.flag is not None}
NUMBERS = {
    "params": st.integers(1, 2 * 10**12), "vram_bytes": st.integers(2**20, 2**38), "batch_size": st.integers(1, 10**6),
    "gpus": st.integers(1, 16), "lora_rank": st.integers(1, 512), "steps": st.integers(1, 10**7),
    "micro_batch": st.sampled_from([1, 2, 16]), "seq_len": st.sampled_from([1, 128, 2048, 32768]),
    "image_size": st.sampled_from([64, 224]), "grad_accum": st.sampled_from([1, 4]), "epochs": st.integers(1, 100),
    "samples": st.integers(1, 10**9), "tokens": st.integers(10**6, 10**13),
}  # fmt: skip


def _values(name: str, fact: Any) -> st.SearchStrategy[Any]:
    if fact.type == "flag":
        return st.booleans()
    return st.sampled_from(sorted(fact.values)) if fact.values is not None else NUMBERS[name]


ANSWERS = st.fixed_dictionaries({}, optional={name: _values(name, fact) for name, fact in FACTS.items()})


def _complete(answers: dict[str, Any]) -> Situation | None:
    """Return the situation; None if the answers contradict each other."""
    try:
        return complete_situation(ADVISOR, answers)
    except InputError:
        return None


def _is_in_range(number: AdvisedHyperparameter) -> bool:
    if not isinstance(number.value, (int, float)) or number.low is None or number.high is None:
        return True
    return number.low <= number.value <= number.high


@settings(max_examples=examples(400))
@given(ANSWERS, st.none() | st.sampled_from(ADVISOR.catalog.optimizer_ids))
@example({"samples": 1, "epochs": 1, "tokens": 10**6, "batch_size": 1, "grad_accum": 1}, None)
def test_valid_situation_has_a_consistent_recommendation(answers: dict[str, Any], pinned: str | None) -> None:
    inputs = answers if pinned is None else {**answers, "optimizer": pinned}
    situation = _complete(inputs)
    assume(situation is not None)
    assert situation is not None
    advice = recommend(ADVISOR, situation)
    data = to_json_object(build_recommendation(advice))
    VALIDATOR.validate(data)
    assert advice.optimizer.id == (pinned or data["optimizer"]["id"])
    assert advice.optimizer.id in ADVISOR.catalog.optimizer_ids
    assert all(_is_in_range(number) for number in advice.hyperparameters), advice.hyperparameters
    assert set(situation.assumed).isdisjoint(inputs)
    cites = {c for t in advice.trace for c in t.cite} | {c for w in advice.warnings for c in w.cite}
    cites |= {c for n in advice.hyperparameters for e in n.derivation for c in e.cite}
    assert cites <= set(ADVISOR.catalog.sources)
    assert advice.optimizer.id not in {a.id for a in advice.alternatives}
    memory = advice.memory
    if memory.total is not None and memory.interval is not None:
        assert memory.interval.low <= memory.total <= memory.interval.high
        assert all((line.at_peak or 0) >= 0 for line in memory.breakdown)
        assert memory.total == sum(line.at_peak or 0 for line in memory.breakdown)
    elif memory.model_states is not None and not situation.offload:
        assert (memory.fits is False) == (
            memory.available is not None and memory.model_states - memory.pageable > memory.available
        )


@settings(max_examples=examples(200))
@given(ANSWERS)
@example({"params": 1, "vram_bytes": 2**20})  # the sample length depends on the kind of network
def test_reported_sensitivity_changes_the_optimizer(answers: dict[str, Any]) -> None:
    with contextlib.suppress(InputError):
        situation = complete_situation(ADVISOR, answers)
        advice = recommend(ADVISOR, situation)
        for sensitivity in advice.sensitivities:
            ((name, texts),) = sensitivity.values.items()
            assert sensitivity.optimizer != advice.optimizer.id
            for text in texts:
                reached = advise(ADVISOR, {**answers, name: _read(name, text)}).optimizer.id
                assert reached == sensitivity.optimizer, (name, text, reached)


def _read(name: str, text: str) -> InputValue:
    """Return the value that an option's text states."""
    if FACTS[name].type == "flag":
        return text == "true"
    return text if FACTS[name].values is not None else read_value(FACTS[name], text)


@settings(max_examples=examples(100))
@given(ANSWERS)
def test_recommendation_does_not_depend_on_earlier_ones(answers: dict[str, Any]) -> None:
    situation = _complete(answers)
    assume(situation is not None)
    assert situation is not None
    assert recommend(CompiledRules(ADVISOR.catalog), situation) == recommend(ADVISOR, situation)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(max_examples=examples(150))
@given(st.sampled_from(["--" + name.replace("_", "-") for name in FACTS if FACTS[name].type != "flag"]), TEXTS)
def test_any_text_of_an_option_is_accepted_or_one_error_line(flag: str, text: str) -> None:
    flag = {"--vram-bytes": "--vram"}.get(flag, flag)
    assume(not text.startswith("-"))
    result = optadvise("recommend", flag, text, "--json")
    assert result.code in (0, 2, 4)
    if result.code:
        assert json.loads(result.out)["code"] == result.error
        assert len(result.err.splitlines()) == 1
        assert "Traceback" not in result.err
    else:
        json.loads(result.out)


@settings(max_examples=examples(300))
@given(st.text(max_size=12))
def test_units_return_a_positive_integer_or_raise_an_input_error(text: str) -> None:
    for parse in (parse_bytes, parse_count):
        try:
            value = parse(text, "--flag")
        except InputError:
            continue
        assert isinstance(value, int)
        assert value > 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7B", 7 * 10**9),
        ("350M", 350_000_000),
        ("124e6", 124_000_000),
        ("8K", 8000),
        ("1.3b", 1_300_000_000),
        ("42", 42),
    ],
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text, "--params") == value


@pytest.mark.parametrize(
    ("text", "value"), [("24GB", 24 * 2**30), ("24GiB", 24 * 2**30), ("24g", 24 * 2**30), ("800MB", 800 * 2**20)]
)
def test_memory_sizes_are_binary(text: str, value: int) -> None:
    assert parse_bytes(text, "--vram") == value
