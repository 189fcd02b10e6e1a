"""Batch, accumulation, tokens, epochs and schedules that a run states."""

from __future__ import annotations

import json

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.inputs import parse_inputs
from optadvise.advice.recommend import recommend
from optadvise.core.records import Situation
from optadvise.rulebase.catalog import load_shipped
from tests.cli import optadvise

RULES = CompiledRules(load_shipped())


def complete(**typed: str) -> Situation:
    return complete_situation(RULES, parse_inputs(RULES.catalog, typed))


@pytest.mark.parametrize(
    ("text", "samples"), [("8K", 8192), ("64k", 65536), ("1K", 1024), ("100K", 100_000), ("1.5K", 1500), ("1M", 10**6)]
)
def test_k_is_1024_after_a_power_of_two(text: str, samples: int) -> None:
    assert complete(batch_size=text).batch_size == samples
    assert complete(seq_len=text).seq_len == samples
    assert complete(steps=text).steps % 1000 in (0, 500)


def test_accumulation_states_the_batch_or_the_micro_batch() -> None:
    run = complete(params="7B", micro_batch="4", grad_accum="8", gpus="8")
    assert (run.batch_size, "batch_size" in run.derived) == (256, True)
    run = complete(params="7B", batch_size="256", grad_accum="8", gpus="8")
    assert (run.micro_batch, "micro_batch" in run.derived) == (4, True)
    assert complete(params="7B", grad_accum="8").batch_size is None


def test_a_batch_may_be_no_multiple_of_the_gpus() -> None:
    run = recommend(RULES, complete(params="3B", batch_size="576", gpus="384", gpu="h100")).situation
    assert run.micro_batch in (1, 2)
    assert complete(params="3B", batch_size="576", micro_batch="3", gpus="384").batch_size == 576
    assert complete(params="3B", batch_size="576", micro_batch="3", grad_accum="1", gpus="384").grad_accum == 1


def test_steps_follow_from_tokens_or_epochs() -> None:
    run = complete(params="1B", tokens="20B", batch_size="512", seq_len="2048")
    assert (run.tokens_per_step, run.steps, "steps" in run.derived) == (2**20, 19073, True)
    assert complete(model="cnn", epochs="90", samples="1281167", batch_size="256").steps == 90 * 5005
    assert complete(params="1B", tokens="20B", batch_size="512", seq_len="2048", steps="19K").steps == 19_000


def test_the_best_batch_of_known_tokens_is_assumed() -> None:
    run = complete(params="1B", tokens="20B", gpus="8")
    assert (run.batch_size, run.steps) == (256, 38147)
    assert {"batch_size", "seq_len", "steps"} <= {*run.assumed}
    assert complete(params="1B", tokens="20B", gpus="6").batch_size == 192  # 32 on each GPU
    assert complete(model="llm", tokens="20B").steps == run.steps
    accumulated = complete(params="1B", tokens="20B", gpus="8", grad_accum="3")
    assert accumulated.batch_size == 24 * (accumulated.micro_batch or 0)


@pytest.mark.parametrize(
    ("typed", "batch", "steps"),
    [
        ({"model": "cnn", "samples": "1.28M", "epochs": "90"}, 256, 450_000),
        ({"model": "vit", "samples": "1.28M", "epochs": "300"}, 1024, 375_000),
        ({"model": "llm", "task": "finetune", "samples": "52K", "epochs": "3"}, 32, 4875),
        ({"model": "llm", "task": "finetune", "tokens": "65536"}, 32, 1),
        ({"params": "1B", "tokens": "20B", "steps": "20000"}, 488, 20_000),  # follows from tokens and steps
        ({"model": "rl"}, None, 100_000),
    ],
)
def test_a_usual_batch_is_assumed(typed: dict[str, str], batch: int | None, steps: int) -> None:
    run = complete(**typed)
    assert (run.batch_size, run.steps) == (batch, steps)
    assert "batch_size" in run.assumed


@pytest.mark.parametrize(
    ("line", "error", "option"),
    [
        ("--batch-size 100 --micro-batch 3 --gpus 4 --grad-accum 2", "option-conflict", "--grad-accum"),
        ("--batch-size 64 --grad-accum 3", "not-divisible", "--grad-accum"),
        ("--batch-size 64 --gpus 3 --micro-batch 3", "not-divisible", "--micro-batch"),
        ("--params 7B --gradient-release --grad-accum 4", "option-conflict", "--gradient-release"),
        ("--params 1B --batch-size 512 --seq-len 2K --tokens 20B --steps 1000", "option-conflict", "--tokens"),
        ("--model cnn --tokens 20B", "option-conflict", "--tokens"),
        ("--model rl --tokens 1B", "option-conflict", "--tokens"),
        ("--model cnn --epochs 90 --batch-size 256", "option-conflict", "--epochs"),
        ("--model cnn --samples 1M --batch-size 256", "option-conflict", "--samples"),
        ("--params 1B --tokens 20B --epochs 3 --samples 1M", "option-conflict", "--epochs"),
        ("--schedule cosinus", "unknown-name", "--schedule"),
        ("--schedule cosine --optimizer schedule-free-adamw", "option-conflict", "--schedule"),
    ],
)
def test_contradictions(line: str, error: str, option: str) -> None:
    result = optadvise("recommend", *line.split())
    assert (result.code, result.error) == (2, error)
    assert result.failure is not None
    assert result.failure.option == option


@pytest.mark.parametrize("name", ["wsd", "constant", "Cosine"])
def test_a_requested_schedule_is_kept(name: str) -> None:
    advice = recommend(RULES, complete(model="transformer", schedule=name))
    assert advice.schedule.id == name.lower()


@pytest.mark.parametrize(
    "line",
    [
        "--batch 64 --gradient-accumulation-steps 4",
        "--num-train-epochs 3 --num-samples 10K --bs 16",
        "--lr-scheduler wsd",
        "--train-tokens 20B",
        "--gpus 8xH100 --vram=80",
        "--checkpointing --fsdp --gpus 2",
        "--task sft --shard ddp --precision bf16-mixed --vram 24",
    ],
)
def test_spellings_of_other_tools(line: str) -> None:
    assert optadvise("recommend", "--model", "transformer", *line.split()).code == 0


def test_a_batch_of_tokens_is_noted() -> None:
    runs = (complete(model="llm", params="1B", batch_size=size) for size in ("0.5M", "512"))
    assert [any(warning.id == "WRN190" for warning in recommend(RULES, run).warnings) for run in runs] == [True, False]


@pytest.mark.parametrize(
    "line", ["--arch resnet50 --samples 1.28M --epochs 90", "--model llm --params 1B --tokens 20B"]
)
def test_an_assumed_batch_is_not_cut_without_a_memory_limit(line: str) -> None:
    data = json.loads(optadvise("recommend", *line.split(), "--json").out)
    assert "batch_size" in data["situation"]["assumed"]
    assert (data["run"]["micro_batch"], data["run"]["choices"]) == (None, [])
    limited = json.loads(optadvise("recommend", *line.split(), "--gpu", "h100", "--json").out)
    assert limited["run"]["micro_batch"] > 1
    assert limited["memory"]["interval"]["total_bytes"]["high"] <= limited["memory"]["available_bytes"]


def test_a_program_sets_the_micro_batch_if_the_default_of_the_framework_does_not_fit() -> None:
    line = "recommend --task finetune --format hf --gpu rtx4090 --arch".split()
    setting = "per_device_train_batch_size="
    assert f"{setting}1," in optadvise(*line, "llama-3.1-8b", "--method", "lora").out
    assert setting not in optadvise(*line, "gpt2").out.partition("import")[2]


def test_stated_accumulation_is_part_of_the_run() -> None:
    run = json.loads(optadvise("recommend", *"--model llm --params 1B --grad-accum 8 --json".split()).out)["run"]
    assert (run["micro_batch"], run["accumulation"], run["effective_batch"]) == (1, 8, 8)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    "objective", ["supervised", "image-text", "masked", "distillation", "detection", "segmentation"]
)
@pytest.mark.parametrize("model", ["vit", "cnn"])
@pytest.mark.parametrize("policy", ["evidence", "guide"])
def test_a_rate_that_scales_with_the_batch_says_so(policy: str, model: str, objective: str, method: str) -> None:
    task = "pretrain" if method == "full" else "finetune"
    run = {"model": model, "objective": objective, "policy": policy, "method": method, "task": task}
    notes = {warning.id for warning in recommend(RULES, complete(**run, optimizer="adamw")).warnings}
    rates = {
        next(number.value for number in advice.hyperparameters if number.name == "lr")
        for advice in (recommend(RULES, complete(**run, optimizer="adamw", batch_size=n)) for n in ("1024", "2048"))
    }
    assert bool({"WRN161", "WRN165"} & notes) is (len(rates) == 2)
