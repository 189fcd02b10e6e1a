"""Plans of runs: what is chosen so that a run fits, and what is suggested instead."""

from __future__ import annotations

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.inputs import parse_inputs
from optadvise.advice.memory_answer import find_remedies
from optadvise.advice.memory_pressure import classify_pressure
from optadvise.advice.plan import find_plan
from optadvise.advice.recommend import advise
from optadvise.core.advice_records import Recommendation, Sensitivity
from optadvise.render.documents import build_recommendation
from optadvise.render.run_plan import describe_run
from optadvise.rulebase.catalog import load

RULES = CompiledRules(load())


def ask(**options: str | bool) -> Recommendation:
    return advise(RULES, parse_inputs(RULES.catalog, options))


def read_choices(advice: Recommendation) -> dict[str, object]:
    """Return the values that were chosen so that the run fits."""
    return {name: value for choice in advice.choices for name, value in choice.change.items()}


def is_expected_to_fit(advice: Recommendation) -> bool:
    memory = advice.memory
    return (memory.total or memory.model_states or 0) - memory.pageable <= (memory.available or 0)


# -- runs that people do ----------------------------------------------------------------------------------------------


def test_adapters_of_eight_billion_parameters_fit_24_gib() -> None:
    advice = ask(arch="llama-3.1-8b", task="finetune", method="lora", gpu="rtx 4090")
    assert (advice.optimizer.id, is_expected_to_fit(advice)) == ("adamw", True)
    assert read_choices(advice) == {"checkpointing": "full", "loss": "chunked"}
    assert "WRN143" not in {warning.id for warning in advice.warnings}


def test_full_fine_tuning_on_several_gpus_keeps_adamw() -> None:
    advice = ask(arch="llama-3-8b", task="finetune", gpus="4", gpu="a100-40gb")
    assert (advice.optimizer.id, advice.situation.shard) == ("adamw", "zero3")
    assert is_expected_to_fit(advice)
    assert read_choices(advice)["checkpointing"] == "full"


@pytest.mark.parametrize("arch", ["llama-2-7b", "llama-3-8b", "qwen2.5-7b"])
def test_full_fine_tuning_of_7b_fits_one_h100(arch: str) -> None:
    advice = ask(arch=arch, task="finetune", gpu="h100")
    assert is_expected_to_fit(advice)
    assert advice.optimizer.id in ("adamw", "adamw8bit")


def test_7b_on_24_gib_requires_more_than_eight_bit_state() -> None:
    advice = ask(params="7B", vram="24GB", task="finetune")
    assert advice.optimizer.paged
    assert {"checkpointing", "precision", "gradient_release"} <= read_choices(advice).keys()
    assert is_expected_to_fit(advice)
    assert "adamw" in {change.optimizer for change in advice.sensitivities if change.change.get("method") == "lora"}


@pytest.mark.parametrize("task", ["dpo", "grpo", "ppo"])
def test_low_learning_rates_keep_fp32_weights(task: str) -> None:
    advice = ask(arch="llama-3-8b", task=task, gpu="h100")
    assert advice.situation.precision == "amp-bf16"


def test_changes_of_what_is_trained_are_only_suggested() -> None:
    advice = ask(params="7B", vram="16GB", task="finetune", clipping=True)
    assert not is_expected_to_fit(advice)
    assert (advice.situation.method, advice.situation.gpus) == ("full", 1)
    fit = find_remedies(RULES, advice)
    assert fit is not None
    assert {"lora", "qlora"} & {fix.change.get("method") for chain in fit.fixes for fix in chain}


def test_stated_options_are_never_overruled() -> None:
    run = {"arch": "llama-3.1-8b", "task": "finetune", "method": "lora", "gpu": "rtx 4090"}
    advice = ask(**run, checkpointing="none", micro_batch="1", loss="whole")
    assert not advice.situation.chosen
    assert (advice.situation.checkpointing, advice.memory.fits) == ("none", False)
    fit = find_remedies(RULES, advice)
    assert fit is not None
    assert any(fix.instead for fix in fit.fixes[0])


def test_nothing_is_searched_for_without_a_limit() -> None:
    for options in ({"arch": "llama-3-8b"}, {"model": "transformer"}, {"arch": "gpt2", "gpu": "h100"}):
        assert ask(**options).choices == ()


@pytest.mark.parametrize(
    "options",
    [
        {"model": "llm", "params": "60B", "gpus": "8", "gpu": "h100"},
        {"model": "transformer", "params": "70B", "vram": "24GB"},  # neither fits with LoRA nor with QLoRA
        {"model": "transformer", "params": "30B", "vram": "24GB", "task": "finetune"},  # fits with QLoRA
    ],
)
def test_changes_are_suggested_only_where_the_run_fits_after_them(options: dict[str, str]) -> None:
    suggested = [pair for change in ask(**options).sensitivities for pair in list_values(change)]
    assert suggested
    assert all(is_expected_to_fit(ask(**{**options, name: value})) for name, value in suggested)


def list_values(sensitivity: Sensitivity) -> list[tuple[str, str]]:
    options = {
        str(RULES.catalog.facts[fact].flag)[2:].replace("-", "_"): values for fact, values in sensitivity.values.items()
    }
    return [(option, value) for option, values in options.items() for value in values]


def test_more_gpus_are_counted_for_each_method_where_one_gpu_is_never_enough() -> None:
    fit = find_remedies(RULES, ask(model="transformer", params="70B", vram="24GB", task="finetune"))
    assert fit is not None
    changes = [{name: value for fix in chain for name, value in fix.change.items()} for chain in fit.fixes]
    gpus = {str(change.get("method", "full")): int(str(change["gpus"])) for change in changes}
    assert gpus["qlora"] < gpus["lora"] < gpus["full"]
    assert next(iter(gpus)) == "qlora"  # 128 GPUs cost more than 4-bit weights


def test_a_run_that_does_not_fit_comes_as_near_as_it_can() -> None:
    advice = ask(arch="llama-3-70b", method="qlora", gpus="2", gpu="rtx 4090")
    assert not is_expected_to_fit(advice)
    assert {"checkpointing", "shard"} <= read_choices(advice).keys()
    assert (advice.memory.total or 0) < 40 * 2**30
    fit = find_remedies(RULES, advice)
    assert fit is not None
    assert all("checkpointing" not in fix.change for chain in fit.fixes for fix in chain)


def test_what_costs_nothing_is_chosen_unless_a_run_certainly_fits() -> None:
    run = {"arch": "llama-3.2-1b", "task": "finetune"}
    assert ask(**run, vram="80GB").choices == ()
    advice = ask(**run, vram="30GB")
    assert read_choices(advice) == {"loss": "chunked"}
    without = ask(**run, vram="30GB", loss="whole")
    assert is_expected_to_fit(without)
    highest = [each.memory.interval.high for each in (advice, without) if each.memory.interval]
    assert highest[0] < highest[1]


# -- hardware alone is not a limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "optimizer"),
    [
        ({"model": "diffusion", "gpu": "h100"}, "adamw"),
        ({"model": "transformer", "gpu": "h200", "gpus": "64"}, "adamw"),
        ({"model": "transformer", "vram": "24GB"}, "adamw8bit"),
        ({"model": "transformer", "vram": "24GB", "gpus": "8"}, "adamw"),
    ],
)
def test_a_limit_without_a_size(options: dict[str, str], optimizer: str) -> None:
    advice = ask(**options)
    assert advice.optimizer.id == optimizer
    largest = {size.optimizer: size.max_params for size in advice.max_model_sizes}
    assert largest[optimizer] > 0
    if optimizer == "adamw8bit":
        assert "lion" in {other.id for other in advice.alternatives}


def test_alternatives_obey_the_limits_of_the_gpu() -> None:
    for options in ({"method": "lora"}, {"method": "lora", "task": "dpo"}, {}):
        advice = ask(arch="llama-3-8b", gpu="m3 ultra", **{"task": "finetune", **options})
        names = {advice.optimizer.id, *(other.id for other in advice.alternatives)}
        assert not any(RULES.catalog.optimizer(name).paged for name in names)


# -- order of the choices ---------------------------------------------------------------------------------------------


def test_priority_weighs_the_choices() -> None:
    runs = {name: ask(arch="llama-3.2-1b", vram="16GB", priority=name) for name in ("balanced", "speed", "memory")}
    assert runs["memory"].situation.checkpointing == "full"
    assert runs["memory"].situation.loss == "chunked"
    assert runs["speed"].situation.checkpointing != "full"
    assert all(is_expected_to_fit(advice) for advice in runs.values())


def test_convolutions_never_get_paged_or_eight_bit_state() -> None:
    for vram in ("1GB", "2GB", "4GB"):
        optimizer = RULES.catalog.optimizer(ask(arch="resnet50", vram=vram, batch_size="64").optimizer.id)
        assert optimizer.family == "sgd" or not optimizer.paged


@pytest.mark.parametrize("options", [{"params": "1.2B"}, {"params": "3B"}, {"params": "7B", "task": "finetune"}])
def test_memory_pressure_follows_the_plan(options: dict[str, str]) -> None:
    situation = ask(**options, vram="24GB", optimizer="adamw").situation.withdraw("micro_batch")
    plan = find_plan(RULES, situation, None)
    assert classify_pressure(RULES, situation) == ("too-small" if plan is None else plan.pressure)


# -- the run object ---------------------------------------------------------------------------------------------------


def test_choices_save_memory_at_the_peak() -> None:
    """With paged state, chunks of the loss need as much for the head's weight gradient as the whole logits."""
    advice = ask(arch="llama-3-8b", task="finetune", gpu="rtx 4090")
    assert advice.memory.fits is None
    assert "loss" not in read_choices(advice)
    assert all(choice.saves > 0 for choice in advice.choices)


@pytest.mark.parametrize(("arch", "has_experts"), [("mixtral-8x7b", True), ("mistral-7b", False)])
def test_adapters_on_all_layers_exclude_experts(arch: str, has_experts: bool) -> None:
    advice = ask(arch=arch, method="qlora", gpu="a100")
    (weights,) = (line for line in advice.memory.breakdown if line.part == "weights")
    assert ("expert" in describe_run(advice), "expert" in weights.how) == (has_experts, has_experts)


def test_run_says_how_to_train() -> None:
    advice = ask(arch="llama-3-8b", task="finetune", gpus="4", gpu="a100-40gb", batch_size="64", precision="amp-bf16")
    run = build_recommendation(advice).run
    assert (run.micro_batch, run.accumulation, run.gpus, run.effective_batch) == (1, 16, 4, 64)
    assert run.tokens_per_step == 64 * (advice.situation.seq_len or 0)
    assert {"micro_batch", "accumulation", "checkpointing"} <= set(run.chosen)
    assert "precision" not in run.chosen
    assert {name for choice in run.choices for name in choice.change} >= {"micro_batch", "checkpointing"}
    assert all(choice.cite and choice.saves >= 0 for choice in run.choices)


def test_run_of_an_unknown_size_has_no_figures() -> None:
    run = build_recommendation(ask(model="cnn")).run
    assert (run.micro_batch, run.accumulation, run.effective_batch, run.loss, run.attention) == (None,) * 5


# -- preference tuning ------------------------------------------------------------------------------------------------


def read_others(**options: str) -> tuple[int, int]:
    """Return the expected and the highest bytes of other networks; zeros without a line."""
    lines = [line for line in ask(**options).memory.breakdown if line.part == "other networks"]
    return (lines[0].bytes or 0, lines[0].interval.high if lines[0].interval else 0) if lines else (0, 0)


def test_preference_tuning_holds_other_networks() -> None:
    run = {"arch": "qwen2.5-7b", "gpu": "h100", "gpus": "8", "shard": "zero3"}
    base = 2 * 7.6e9 / 8
    assert read_others(**run, task="finetune") == (0, 0)
    assert read_others(**run, task="dpo")[0] == pytest.approx(base, rel=0.02)
    assert read_others(**run, task="dpo", method="lora") == (0, 0)
    expected, high = read_others(**run, task="grpo")
    assert (expected, high > 0) == (0, True)
    assert read_others(**run, task="ppo")[0] > 4 * base


@pytest.mark.parametrize("batch_size", ["64", "128", "512"])
def test_an_assumed_micro_batch_is_one_sample_or_leaves_memory_to_spare(batch_size: str) -> None:
    for options in ({"gpus": "4", "gpu": "a100-40gb"}, {"gpu": "h100"}, {"gpu": "rtx 4090", "method": "lora"}):
        advice = ask(arch="llama-3-8b", task="finetune", batch_size=batch_size, **options)
        memory, run = advice.memory, advice.situation
        assert memory.total is not None
        assert memory.available is not None
        assert run.micro_batch == 1 or memory.total <= 0.9 * memory.available


def test_no_size_fits_if_not_even_the_smallest_accepted_one_does() -> None:
    advice = ask(vram="16GB", batch_size="8192", gradient_release=True)
    assert {size.max_params for size in advice.max_model_sizes} == {0}


@pytest.mark.parametrize(
    ("run", "fits"),
    [
        ({"arch": "llama-3-8b", "task": "finetune", "gpu": "rtx 4090"}, True),
        ({"params": "70B", "vram": "24GB"}, False),
        ({"arch": "resnet50", "priority": "memory", "vram": "24GB"}, True),
    ],
)
def test_the_answer_of_another_policy_says_whether_the_run_fits(run: dict[str, str], fits: bool) -> None:
    (answer,) = ask(**run).policies
    assert answer.fits is fits
    followed = ask(**run, policy=answer.policy)
    assert followed.optimizer.id == answer.optimizer
    assert is_expected_to_fit(followed) is fits


def test_the_fit_of_another_policys_answer_is_unknown_without_a_limit() -> None:
    assert [answer.fits for answer in ask(arch="resnet50", priority="memory").policies] == [None]
