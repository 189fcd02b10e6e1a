"""Memory of runs that DeepSpeed or PyTorch shards."""

from __future__ import annotations

import json
from itertools import pairwise, product
from typing import Any

import pytest

from tests.cli import optadvise
from tests.conftest import rotated

GIB = 2**30
SEVEN_B = "--arch llama-2-7b --task finetune --seq-len 1024 --checkpointing full --micro-batch 1"


def estimate(line: str) -> dict[str, Any]:
    result = optadvise("estimate", *line.split(), "--json")
    assert result.code == 0, result.err
    data: dict[str, Any] = json.loads(result.out)
    return data


def get_lines(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["part"]: line for line in answer["memory"]["ledger"]}


def test_zero_offload_of_t5_11b_on_one_gpu_is_as_measured() -> None:
    """It took 33.8 GB as nvidia-smi shows, with samples of 128 tokens (huggingface/transformers#9996)."""
    line = "--arch t5-11b --offload --engine deepspeed --gpus 1 --gpu a100-40gb --task finetune --seq-len 128"
    answer = estimate(f"{line} --precision amp-fp16 --micro-batch 1")
    memory = answer["memory"]
    assert memory["fits"] is True
    assert memory["interval"]["total_bytes"]["low"] <= 33.8e9 <= memory["interval"]["total_bytes"]["high"]
    assert memory["host_bytes"] == pytest.approx(
        16 * answer["situation"]["params"], rel=0.01
    )  # fp32 weights, gradients and moments


def test_zero_offload_of_10b_runs_on_a_v100_with_checkpointing() -> None:
    """ZeRO-Offload trained 10 billion parameters on one V100 of 32 GB with checkpointing (arXiv 2101.06840)."""
    line = "--params 10B --offload --engine deepspeed --checkpointing full --seq-len 1024 --gpus 1"
    assert estimate(line)["memory"]["total_bytes"] < 32e9


def test_the_step_of_zero_2_allocates_fp32_copies_of_the_gradients() -> None:
    """LlamaFactory#1221: 3.14 GiB more were refused, 4 bytes × 6.74B / 8; 28.28 GiB were allocated."""
    run = f"{SEVEN_B} --gpus 8 --shard zero2 --precision amp-fp16 --loss chunked"
    pytorch, deepspeed = (estimate(f"{run} --engine {engine}")["memory"] for engine in ("pytorch", "deepspeed"))
    assert deepspeed["peak"] == "the optimizer step"
    copies = get_lines({"memory": deepspeed})["temporaries"]["bytes"]
    assert copies == pytest.approx(3.14 * GIB, rel=0.01)
    assert deepspeed["total_bytes"] > pytorch["total_bytes"]
    assert deepspeed["interval"]["total_bytes"]["high"] > 32e9


def test_offload_moves_state_to_the_host_and_deepspeeds_gradients_too() -> None:
    run = f"{SEVEN_B} --gpus 2 --shard zero2 --offload"
    for engine in ("pytorch", "deepspeed"):
        answer = estimate(f"{run} --engine {engine}")
        lines, per_parameter = get_lines(answer), 16 if engine == "deepspeed" else 12
        assert answer["memory"]["host_bytes"] == pytest.approx(per_parameter * 6.74e9 / 2, rel=0.01)
        assert lines["optimizer state"]["bytes"] == 0
        assert (lines["gradients"]["bytes"] == 0) is (engine == "deepspeed")


PRECISIONS = "amp-bf16", "amp-fp16", "bf16", "fp32"
SHARDED = list(product(["pytorch", "deepspeed"], ["zero1", "zero2", "zero3"], PRECISIONS))


@pytest.mark.parametrize(("engine", "shard", "precision"), rotated(8, SHARDED))
def test_more_gpus_never_need_more_memory_on_each(engine: str, shard: str, precision: str) -> None:
    first = 0 if engine == "deepspeed" else 1
    line = f"{SEVEN_B} --shard {shard} --engine {engine} --precision {precision} --gpus"
    totals = [estimate(f"{line} {2**n}")["memory"]["total_bytes"] for n in range(first, 11)]
    assert all(more <= fewer for fewer, more in pairwise(totals))
    # What is sharded is at most weights, gradients, their copies and state, so a doubling halves at most these.
    assert all(more >= fewer / 2 for fewer, more in pairwise(totals))


def test_deepspeed_shards_by_default_and_pytorch_does_not_on_one_gpu() -> None:
    assert estimate("--params 1B --engine deepspeed")["situation"]["shard"] == "zero2"
    assert estimate("--params 7B --engine deepspeed --gpus 4")["situation"]["shard"] == "zero3"
    for line in ("--params 1B --shard zero2", "--params 1B --shard none --engine deepspeed"):
        assert optadvise("estimate", *line.split()).code == 2


def test_a_program_that_shards_otherwise_says_so() -> None:
    line = "--arch llama-2-7b --gpus 8 --shard zero2 --format deepspeed"
    assert "--engine deepspeed" in optadvise("recommend", *line.split()).err
    assert "--engine" not in optadvise("recommend", *line.split(), "--engine", "deepspeed").err
