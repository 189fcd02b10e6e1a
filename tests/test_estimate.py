"""The `estimate` command: breakdown, fit, fixes and errors."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from optadvise.core.units import show_bytes
from optadvise.memory.search import search_largest
from optadvise.rulebase.catalog import load
from tests.cli import optadvise
from tests.conftest import ROOT, rotated

SCHEMA = json.loads((ROOT / "docs" / "schema" / "estimate.json").read_text(encoding="utf-8"))
GIB = 2**30


def estimate(line: str) -> dict[str, Any]:
    result = optadvise("estimate", *line.split(), "--json")
    assert result.code == 0, result.err
    assert result.err == ""
    data: dict[str, Any] = json.loads(result.out)
    jsonschema.validate(data, SCHEMA)
    return data


def line_of(data: dict[str, Any], part: str) -> dict[str, Any]:
    return next(line for line in data["memory"]["ledger"] if line["part"] == part)


# -- breakdown ---------------------------------------------------------------------------------------------------


PAGED_CARDS = [name for name in load().optimizer_ids if load().optimizer(name).paged]
PAGED = "--arch llama-3-8b --gpu rtx-4090 --precision bf16 --micro-batch 1 --optimizer paged-adamw{}"


@pytest.mark.parametrize("bits", ["32bit", "8bit"])
def test_only_state_of_large_tensors_is_pageable(bits: str) -> None:
    """Adapters of rank 16 on matrices 4096 wide have 65,536 elements, and those 14,336 wide have 229,376."""
    small = estimate(f"{PAGED.format(bits)} --method lora --lora-rank 16 --lora-targets q,k,v,o")
    assert small["memory"]["pageable_bytes"] == small["memory"]["host_bytes"] == 0
    assert line_of(small, "optimizer state")["bytes"] > 0
    mixed = estimate(f"{PAGED.format(bits)} --method lora --lora-rank 16 --lora-targets gate")
    large = 32 * 16 * 14336  # one of the two matrices of each adapter
    assert mixed["memory"]["pageable_bytes"] == large * {"32bit": 8, "8bit": 2}[bits]
    fits = {fit["id"]: fit for fit in small["optimizers"]}
    assert fits[f"paged-adamw{bits}"]["pageable_bytes"] == 0 < fits[f"paged-adamw{bits}"]["optimizer_bytes"]


def test_block_scales_are_not_pageable() -> None:
    """The 8-bit values are paged, 2 bytes per element of every matrix, and their scales are not."""
    data = estimate(PAGED.format("8bit"))
    matrices = 8030261248 - 65 * 4096
    assert data["memory"]["pageable_bytes"] == 2 * matrices < line_of(data, "optimizer state")["bytes"]


@pytest.mark.parametrize(
    "run", ["--gradient-release --checkpointing full --loss chunked", "--method lora --lora-rank 64"]
)
def test_managed_memory_has_no_fragmentation(run: str) -> None:
    data = estimate(f"{PAGED.format('32bit')} {run}")
    memory, fragmentation = data["memory"], line_of(data, "fragmentation")["interval"]
    parts = [line["interval"] for line in memory["ledger"] if line["part"] not in ("fragmentation", "CUDA context")]
    assert memory["pageable_bytes"] > 0
    for end, share in (("low", 0.02), ("expected", 0.08), ("high", 0.18)):
        tensors = sum(part[end] for part in parts) - memory["pageable_bytes"]
        assert fragmentation[end] == pytest.approx(share * tensors, rel=1e-6)
    for end in ("low", "high"):
        lines = sum(line["interval"][end] for line in memory["ledger"])
        assert memory["interval"]["total_bytes"][end] == pytest.approx(lines, rel=1e-3)
    assert memory["reserved_bytes"] == pytest.approx(1.08 * memory["allocated_bytes"], rel=1e-6)


@pytest.mark.parametrize("name", PAGED_CARDS)
def test_paged_cards_have_paged_state(name: str) -> None:
    card = load().optimizer(name)
    assert any(tensor.paged_from for tensor in card.state)


@pytest.mark.parametrize(
    ("precision", "weights", "gradients", "state"),
    [("fp32", 4, 4, 8), ("amp-bf16", 4, 4, 8), ("amp-fp16", 4, 4, 8), ("bf16", 2, 2, 4)],
)
def test_bytes_per_parameter_follow_the_precision(precision: str, weights: int, gradients: int, state: int) -> None:
    memory = estimate(f"--params 7B --precision {precision}")["memory"]
    billions = [round(memory[f"{name}_bytes"] / 1e9) for name in ("weights", "gradients", "optimizer")]
    assert billions == [7 * weights, 7 * gradients, 7 * state]


@pytest.mark.parametrize(
    "line",
    [
        "--params 7B", "--arch gpt2 --batch-size 64 --micro-batch 4", "--arch llama-3.2-3b --checkpointing full",
        "--params 8B --method lora", "--params 8B --method qlora", "--params 70B --gpus 8 --shard zero3",
        "--arch resnet50 --batch-size 256", "--params 1B --optimizer rmsprop --checkpointing full --precision fp32",
        "--arch bert-base-uncased --attention eager", "--params 1B --gpus 4 --shard none",
    ],
)  # fmt: skip
def test_lines_at_the_peak_sum_to_the_total(line: str) -> None:
    memory = estimate(line)["memory"]
    assert sum(entry["at_peak_bytes"] for entry in memory["ledger"]) == memory["total_bytes"]
    for end in ("low", "high"):  # of the total, either covers other moments than the peak, too
        rounding = len(memory["ledger"])  # of each line to whole bytes
        lines = sum(entry["interval"][end] for entry in memory["ledger"])
        assert lines <= memory["interval"]["total_bytes"][end] + rounding
    for name, span in memory["interval"].items():
        assert 0 <= span["low"] <= memory[name] <= span["high"], name
    assert memory["allocated_bytes"] <= memory["reserved_bytes"] < memory["total_bytes"]


def test_unknown_shape_has_a_wider_interval_than_a_known_one() -> None:
    def width(line: str) -> float:
        memory = estimate(line)["memory"]
        varying = [
            entry["interval"] for entry in memory["ledger"] if entry["part"] in ("activations", "logits and loss")
        ]
        return float(sum(i["high"] - i["low"] for i in varying) / sum(i["expected"] for i in varying))

    assert width("--params 8B") > 2 * width("--arch llama-3-8b")


def test_recomputation_chunking_release_and_offload_reduce_memory() -> None:
    base = "--arch llama-3.2-1b --seq-len 2048 --micro-batch 2"
    plain = estimate(base)
    assert (
        line_of(estimate(f"{base} --checkpointing full"), "activations")["bytes"]
        < 0.2 * (line_of(plain, "activations")["bytes"])
    )
    assert estimate(f"{base} --loss chunked")["memory"]["total_bytes"] < plain["memory"]["total_bytes"] - GIB
    eager = estimate(f"{base} --attention eager")["memory"]["total_bytes"]
    selective = estimate(f"{base} --attention eager --checkpointing selective")["memory"]["total_bytes"]
    assert eager > plain["memory"]["total_bytes"] > selective
    assert estimate(f"{base} --offload")["memory"]["optimizer_bytes"] == 0
    full = f"{base} --checkpointing full --loss chunked"
    released = line_of(estimate(f"{full} --gradient-release"), "gradients")["at_peak_bytes"]
    assert released < 0.5 * line_of(estimate(full), "gradients")["at_peak_bytes"]


def test_gradient_accumulation_keeps_gradients() -> None:
    at_once = line_of(estimate("--arch gpt2 --batch-size 8 --micro-batch 8"), "gradients")
    in_parts = line_of(estimate("--arch gpt2 --batch-size 64 --micro-batch 8"), "gradients")
    assert at_once["at_peak_bytes"] < in_parts["at_peak_bytes"] == in_parts["bytes"]


def test_adapter_parameters_are_counted_per_matrix() -> None:
    """LoRA of rank 16 on q and v of Llama 2 7B: 32 layers, 2 matrices, 16 · (4096 + 4096)."""
    data = estimate("--arch llama-2-7b --method lora --lora-rank 16 --lora-targets q,v")
    assert data["memory"]["gradients_bytes"] == 4 * 32 * 2 * 16 * 8192
    assert data["memory"]["optimizer_bytes"] == pytest.approx(2 * data["memory"]["gradients_bytes"], rel=1e-3)
    four_bits = estimate("--arch llama-2-7b --method qlora --lora-targets q,v")["memory"]["weights_bytes"]
    # 6.476B in linear layers at 0.516 B; the head, the embedding and the norms, 262M, at 2 B.
    assert four_bits == pytest.approx(6.476e9 * 0.5159 + 0.262e9 * 2 + 4 * 32 * 2 * 16 * 8192, rel=2e-3)


def test_small_tensors_of_8bit_optimizers_have_32bit_state() -> None:
    """BatchNorm's vectors and the smallest convolutions are under 4096 elements."""
    rows = {row["id"]: row for row in estimate("--arch resnet50")["optimizers"]}
    assert 2.03 < rows["adamw8bit"]["optimizer_bytes"] / 25_557_032 < 2.1
    assert rows["adamw"]["optimizer_bytes"] == pytest.approx(8 * 25_557_032, rel=1e-4)


def test_interval_covers_32bit_state_of_embeddings() -> None:
    """transformers' Trainer uses 32-bit state for embeddings with 8-bit optimizers."""
    interval = line_of(estimate("--arch gpt2 --optimizer adamw8bit"), "optimizer state")["interval"]
    assert interval["high"] - interval["expected"] == pytest.approx((8 - 2.03) * (50257 + 1024) * 768, rel=0.01)


def test_interval_covers_temporaries_of_foreach() -> None:
    """Adam's foreach step allocates a copy of the weights, the fused step does not."""
    line = line_of(estimate("--arch llama-2-7b --precision bf16 --checkpointing full"), "temporaries")
    assert line["interval"]["high"] - line["at_peak_bytes"] > 12 * GIB
    assert "fused=True" in line["how"]


def test_interval_covers_the_passes_if_the_optimizer_step_has_the_peak() -> None:
    """The passes have the wider interval, so that their high end may exceed that of the step."""
    line = "--params 7B --optimizer adafactor"
    with_step, passes = (estimate(run)["memory"] for run in (line, f"{line} --gradient-release"))
    assert with_step["peak"] == "the optimizer step"
    assert with_step["interval"]["total_bytes"]["high"] >= passes["interval"]["total_bytes"]["high"]


# -- what fits ----------------------------------------------------------------------------------------------------


def test_search_largest_returns_the_boundary() -> None:
    draw = random.Random(0)
    for _ in range(500):
        base, slope, bend = draw.randint(0, 50), draw.randint(1, 40), draw.choice([0, 0, 1])
        available, limit, start = draw.randint(0, 10**5), draw.randint(1, 10**6), draw.randint(1, 10**6)

        def required(n: int, base: int = base, slope: int = slope, bend: int = bend) -> int:
            return base + slope * n + bend * n * n

        largest = search_largest(required, available, limit, start)
        assert largest == 0 or required(largest) <= available
        assert largest == limit or required(largest + 1) > available


@pytest.mark.parametrize(
    "line",
    rotated(
        1, ["--arch pythia-160m --gpu t4", "--params 1B --gpu h100 --seq-len 1024", "--arch vit-base-16 --gpu v100"]
    ),
)
def test_largest_micro_batch_and_longest_sequence_are_boundaries(line: str) -> None:
    data = estimate(line)
    assert data["largest_micro_batch"] > 1
    for flag, largest in (("micro-batch", data["largest_micro_batch"]), ("seq-len", data["longest_seq_len"])):
        if largest is None:
            continue
        without = line.replace("--seq-len 1024", "") if flag == "seq-len" else line
        for count, fits in ((largest, True), (largest + 1, False)):
            memory = estimate(f"{without} --{flag} {count}")["memory"]
            assert (memory["total_bytes"] <= memory["available_bytes"]) is fits


@pytest.mark.parametrize(
    "line",
    rotated(
        2,
        [
            "--params 7B --gpu rtx4090 --task finetune",
            "--params 7B --gpu rtx4090",
            "--params 3B --vram 24GB --task finetune",
            "--arch resnet152 --batch-size 512 --micro-batch 512 --vram 16GB",
            "--params 70B --gpus 8 --gpu a100",
            "--arch gpt2-xl --gpu t4 --attention eager --seq-len 1024",
        ],
    ),
)
def test_every_fix_chain_fits_and_every_change_is_necessary(line: str) -> None:
    data = estimate(line)
    assert data["memory"]["fits"] is not True
    assert data["fixes"]
    for chain in data["fixes"]:
        changes = {name: value for fix in chain for name, value in fix["change"].items()}
        assert count_required_bytes(line, changes) <= data["memory"]["available_bytes"]
        for omitted in chain if len(chain) > 1 else ():
            fewer = {name: value for fix in chain if fix is not omitted for name, value in fix["change"].items()}
            assert count_required_bytes(line, fewer) > data["memory"]["available_bytes"], (chain, omitted)


def count_required_bytes(line: str, changes: dict[str, Any]) -> int:
    """Return the required bytes of a run after changes, without pageable state."""
    arguments = line.split()
    for name, value in changes.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in arguments:
            at = arguments.index(flag)
            del arguments[at : at + 2]
        arguments += [flag] if value is True else [flag, str(value)]
    # More GPUs share the batch, so a specified micro-batch may be too large.
    if "gpus" in changes and "micro_batch" not in changes and "--micro-batch" in arguments:
        del arguments[arguments.index("--micro-batch") : arguments.index("--micro-batch") + 2]
    elif "micro_batch" not in changes and "--micro-batch" not in arguments:
        arguments += ["--micro-batch", "1"]
    memory = estimate(" ".join(arguments))["memory"]
    return int(memory["total_bytes"] - memory["pageable_bytes"])


def test_adapters_are_suggested_only_for_finetuning() -> None:
    methods = [
        {
            fix["change"].get("method")
            for chain in estimate(f"--params 7B --gpu rtx4090 {more}")["fixes"]
            for fix in chain
        }
        for more in ("--task finetune", "--task pretrain")
    ]
    assert {"lora", "qlora"} <= methods[0]
    assert methods[1] == {None}


def test_every_fix_rule_is_used() -> None:
    """A rule that no chain uses would be dead."""
    expected = {row.id for row in load().base.fixes}
    lines = [
        "--params 7B --gpu rtx4090 --task finetune",
        "--params 7B --gpu rtx4090",
        "--params 8B --vram 24GB --task finetune",
        "--params 70B --gpus 8 --gpu a100",
        "--arch gpt2 --vram 6GB --attention eager --seq-len 1024 --micro-batch 4 --batch-size 4",
        "--arch gpt2 --vram 8GB --micro-batch 8 --seq-len 1024",
        "--arch resnet50 --batch-size 512 --micro-batch 512 --vram 16GB",
        "--arch llama-3.2-1b --attention eager --seq-len 32768 --checkpointing full --vram 80GB",
        *(f"--params {size} --vram 24GB" for size in ("1.2B", "1.4B", "3B")),
        *(f"--params {size} --vram 24GB --clipping" for size in ("1.3B", "2.5B", "3B", "4B")),
        "--params 3B --vram 24GB --precision fp32",
        "--params 5B --gpu rx-7900-xtx --clipping",
        *(f"--params {size} --gpus 8 --gpu rtx4090" for size in ("1.4B", "3B")),
        "--params 2B --gpus 2 --gpu rtx4090",
        "--params 8B --gpus 4 --gpu rtx4090",
        "--model cnn --params 1.4B --vram 24GB",
    ]
    used: set[str] = set()
    for line in lines:
        used |= {fix["rule"] for chain in estimate(line)["fixes"] for fix in chain}
    assert used == expected


def test_assumed_micro_batch_fits() -> None:
    """The largest that fits over the whole likely range, if the whole batch is not expected to fit."""
    line = "--arch gpt2 --gpu t4 --batch-size 64 --seq-len 1024"
    data = estimate(line)
    assert data["situation"]["micro_batch"] == 4
    assert "micro_batch" in data["situation"]["assumed"]
    totals = [result["memory"]["interval"]["total_bytes"] for result in (data, estimate(f"{line} --micro-batch 8"))]
    assert totals[0]["high"] <= data["memory"]["available_bytes"] < totals[1]["high"]
    assert estimate("--arch gpt2 --batch-size 64")["situation"]["micro_batch"] == 64


def test_optimizers_are_sorted_by_total_memory() -> None:
    data = estimate("--params 7B --gpu a100 --all")
    ids = [row["id"] for row in data["optimizers"]]
    assert sorted(ids) == load().optimizer_ids
    totals = [row["total_bytes"] for row in data["optimizers"]]
    assert totals == sorted(totals)
    apple = [row["id"] for row in estimate("--params 1B --gpu m2-max-64gb")["optimizers"]]
    assert "paged-adamw8bit" not in apple


def test_every_fit_of_paged_state_is_labelled() -> None:
    table = optadvise("estimate", *"--params 7B --vram 80GB --all".split()).out.split("All optimizers")[1]
    rows = {line.split()[0]: line for line in table.splitlines() if " GiB " in line}
    assert {name for name, line in rows.items() if "paged " in line} == {"paged-adamw8bit", "paged-adamw32bit"}


def test_replaced_optimizers_of_fixes_have_a_reason() -> None:
    result = optadvise("recommend", *"--params 7B --vram 24GB --json".split())
    fixes = [fix for chain in json.loads(result.out)["fixes"] for fix in chain]
    replaced = [fix for fix in fixes if {"gpus", "optimizer"} <= fix["change"].keys()]
    assert replaced
    assert all("paged-adamw8bit" in fix["costs"] for fix in replaced)


def test_figures_of_unknown_shapes_are_null() -> None:
    data = estimate("--params 500M --model gnn --vram 24GB")
    assert data["memory"]["total_bytes"] is None
    assert data["memory"]["activations_bytes"] is None
    assert data["memory"]["fits"] is None
    assert data["largest_micro_batch"] is None
    assert estimate("--params 5B --model gnn --vram 24GB")["memory"]["fits"] is False


# -- descriptions of networks ----------------------------------------------------------------------------------------


def test_config_file_determines_the_exact_size(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "vocab_size": 128256,
        "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "bfloat16",
    }  # fmt: skip
    file = tmp_path / "llama-3.2-3b.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    data = estimate(f"--hf-config {file} --vram 24GB --seq-len 4096 --micro-batch 2")
    assert data["situation"]["params"] == 3_212_749_824
    assert data["situation"]["shape"]["name"] == "llama-3.2-3b"
    assert data["memory"]["fits"] is False
    assert data["memory"] == estimate("--arch llama-3.2-3b --vram 24GB --seq-len 4096 --micro-batch 2")["memory"]


def test_dimensions_describe_a_network() -> None:
    line = "--hidden 4096 --layers 32 --heads 32 --kv-heads 8 --ffn 14336 --vocab 128256 --seq-len 2048"
    assert estimate(line)["situation"]["params"] == 8_030_261_248
    assert (
        estimate(line)["memory"]["total_bytes"] == estimate("--arch llama-3-8b --seq-len 2048")["memory"]["total_bytes"]
    )


def test_resnet50_at_batch_256_requires_about_12_gib() -> None:
    """Reported by users: torchvision's ResNet-50 under AMP takes 11 to 13 GiB at a batch of 256."""
    memory = estimate("--arch resnet50 --image-size 224 --batch-size 256")["memory"]
    assert 11 * GIB < memory["total_bytes"] < 13.5 * GIB


# -- invalid input ----------------------------------------------------------------------------------------------------

# Command line -> code and option of its error.
REJECTED = {
    "": ("network-unknown", None),
    "--params 7B --gpu quantum9": ("unknown-name", "--gpu"),
    "--arch resnet5000": ("network-unknown", "--arch"),
    "--arch gpt2 --params 7B": ("network-conflict", "--params"),
    "--arch gpt2 --hidden 64": ("option-conflict", "--hidden"),
    "--arch gpt2 --model cnn": ("network-conflict", "--model"),
    "--arch gpt2 --image-size 224": ("option-conflict", "--image-size"),
    "--arch resnet50 --seq-len 128": ("option-conflict", "--seq-len"),
    "--arch vgg16 --image-size 16": ("out-of-range", "--image-size"),
    "--hidden 64": ("missing-option", "--layers"),
    "--hidden 100 --layers 2 --heads 3 --ffn 400 --vocab 1000": ("not-divisible", "--hidden"),
    "--hidden 64 --layers 1e6 --heads 2 --ffn 64 --vocab 100": ("out-of-range", "--layers"),
    "--hidden 64 --layers 2 --heads 2 --ffn 64 --vocab 100 --model cnn": ("option-conflict", "--model"),
    "--params 7B --gpus 2 --batch-size 64 --micro-batch 3": ("not-divisible", "--micro-batch"),
    "--params 7B --vram 24GB --gpu a100": ("option-conflict", "--vram"),
    "--params 7B --gradient-release --clipping": ("option-conflict", "--gradient-release"),
    "--params 7B --gradient-release --batch-size 8 --micro-batch 2": ("option-conflict", "--gradient-release"),
    "--params 7B --gradient-release --precision amp-fp16": ("option-conflict", "--gradient-release"),
    "--arch resnet50 --method qlora": ("option-conflict", "--method"),
    "--params 7B --optimizer paged-adamw8bit --gpu mi300x": ("option-conflict", "--optimizer"),
    "--params 7B --method lora --lora-targets zz": ("unknown-name", "--lora-targets"),
    "--hf-config /nowhere/config.json": ("file-not-found", "--hf-config"),
    "--params 7B --checkpointing some": ("unknown-choice", "--checkpointing"),
    "--params 7B --shard zero3": ("option-conflict", "--shard"),
    "--workload nothing:there --seq-len 5": ("option-conflict", "--seq-len"),
    "--workload junk": ("invalid-value", "--workload"),
    "--workload a:b --arch gpt2": ("option-conflict", "--arch"),
    "--params 7B --timeout soon": ("invalid-number", "--timeout"),
    "--params 7B --lora-targets q": ("option-conflict", "--lora-targets"),
    "--params 7B --method lora --lora-rank 100000": ("out-of-range", "--lora-rank"),
    "--params 7B --gpus 1e9": ("out-of-range", "--gpus"),
    "--params 7B --seq-len 0": ("out-of-range", "--seq-len"),
    "--arch gpt2 --seq-len 4096": ("out-of-range", "--seq-len"),
    "--hf-config /dev/null": ("file-unreadable", "--hf-config"),
    "--params 7B --gpus 8 --shard zero2 --gradient-release": ("option-conflict", "--gradient-release"),
    "--arch resnet50 --method lora": ("network-conflict", "--method"),
    "--arch gpt2 --method lora --lora-targets gate": ("unknown-name", "--lora-targets"),
}


@pytest.mark.parametrize("line", REJECTED)
def test_invalid_input_is_reported_in_one_line(line: str) -> None:
    result = optadvise("estimate", *line.split())
    assert (result.code, result.out) == (2, "")
    assert result.failure is not None
    assert (result.failure.code, result.failure.option) == REJECTED[line]
    assert len(result.err.splitlines()) == 1
    assert "Traceback" not in result.err


def test_8bit_state_without_effect_is_warned_about() -> None:
    result = optadvise("recommend", *"--arch resnet50 --batch-size 256 --gpu t4 --optimizer adamw8bit --json".split())
    assert "WRN144" in {w["id"] for w in json.loads(result.out)["warnings"]}


def test_a_fit_with_paging_reports_how_much_moves_to_host_memory() -> None:
    line = "--params 7B --vram 80GB --optimizer paged-adamw8bit --micro-batch 2"
    memory = estimate(line)["memory"]
    moved = memory["total_bytes"] - memory["available_bytes"]
    assert moved > 0
    assert show_bytes(moved) in optadvise("estimate", *line.split()).out
