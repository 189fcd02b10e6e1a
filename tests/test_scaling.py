"""More than one GPU in `estimate`: shares and traffic against ZeRO's figures and real ranks; where more stop paying."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import pytest
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.core.records import Situation
from optadvise.core.units import show_bytes
from optadvise.memory import estimator
from optadvise.memory.inputs import select_memory_inputs
from optadvise.memory.network_size import find_network_size
from optadvise.memory.optimizer_state import compute_state_bytes, list_state_tensors
from optadvise.memory.records import Weight
from optadvise.memory.sharding import assign_whole_weights, count_elements, shard_rows
from optadvise.rulebase.catalog import Catalog
from tests.cli import optadvise
from tests.held import measured
from tests.test_estimate import GIB, estimate, line_of

# A network whose dimensions no number of ranks divides.
ODD = "--hidden 60 --layers 2 --heads 4 --vocab 502 --ffn 101 --precision fp32 --batch-size 8"
ZERO1 = ["adamw", "lion", "sgd-momentum", "adafactor", "adamw8bit", "muon", "soap"]
FSDP = ["adamw", "lion", "sgd-momentum", "adan"]
FEWER = ["adamw", "sgd-momentum", "adafactor", "muon"]


def situation(rules: CompiledRules, words: str) -> Situation:
    """Return what a command line's options say."""
    from optadvise.advice.inputs import parse_inputs

    said = words.split()
    stated = {flag[2:].replace("-", "_"): value for flag, value in zip(said[::2], said[1::2], strict=True)}
    return complete_situation(rules, parse_inputs(rules.catalog, stated))


def tensors(rules: CompiledRules) -> Counter[Weight]:
    """Return the weights of that network."""
    size = find_network_size(rules.memory_rules, select_memory_inputs(situation(rules, ODD)))
    assert size is not None
    assert size.trained_weights is not None
    return size.trained_weights


@pytest.fixture(scope="module")
def every(rules: CompiledRules, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What two and four ranks hold and send."""
    weights = [(weight.shape, weight.kind) for weight in tensors(rules).elements()]
    wanted = {"none": ["adamw"], "zero1": ZERO1, "fsdp": FSDP}
    fewer = {"none": ["adamw"], "zero1": FEWER, "fsdp": FEWER[:1]}  # four that import little, on two cores
    folder = tmp_path_factory.mktemp("held")
    return {nproc: measured(weights, some, nproc, folder, rules.catalog) for nproc, some in ((2, wanted), (4, fewer))}


def line(data: dict[str, Any]) -> dict[str, Any]:
    return line_of(data, "optimizer state")


@pytest.mark.parametrize(("nproc", "name"), [*((2, name) for name in FSDP), (4, FEWER[0])])
def test_every_rank_holds_its_rows(every: dict[int, Any], nproc: int, name: str, rules: CompiledRules) -> None:
    state = list_state_tensors(rules.catalog.optimizer(name))
    pieces = [shard_rows(tensors(rules), nproc, rank) for rank in range(nproc)]
    expected = [sum(n * compute_state_bytes(state, w.shape) for w, n in mine.items()) for mine in pieces]
    assert every[nproc]["fsdp"]["state"][name] == expected
    data = estimate(f"{ODD} --gpus {nproc} --shard zero3 --optimizer {name}")
    assert line(data)["bytes"] == max(expected) > min(expected)
    assert data["memory"]["weights_bytes"] == max(every[nproc]["fsdp"]["weights"])
    assert data["memory"]["gradients_bytes"] == data["memory"]["weights_bytes"]


@pytest.mark.parametrize(("nproc", "name"), [*((2, name) for name in ZERO1), *((4, name) for name in FEWER)])
def test_state_is_even_or_handed_out_by_whole_tensors(every: dict[int, Any], nproc: int, name: str) -> None:
    """ZeRO cuts evenly, which the ledger expects; its high end is the fullest rank of ZeroRedundancyOptimizer."""
    states = every[nproc]["zero1"]["state"][name]
    data = estimate(f"{ODD} --gpus {nproc} --shard zero1 --optimizer {name}")
    if name == "adamw8bit":  # some trainers keep its embeddings' state in 32 bits, which is more
        assert line(data)["interval"]["high"] >= max(states)
    else:
        assert line(data)["interval"]["high"] == max(states)
    assert line(data)["bytes"] == pytest.approx(sum(states) / nproc, rel=0.02)  # what each rank keeps once included
    assert data["memory"]["weights_bytes"] == max(every[nproc]["zero1"]["weights"])


@pytest.mark.parametrize("nproc", [2, 4])
def test_collectives_are_those_of_the_engine(every: dict[int, Any], nproc: int, rules: CompiledRules) -> None:
    """To the element, with the rows that fill up pieces under FSDP2."""
    whole = count_elements(tensors(rules))
    told = {}
    for shard in ("none", "zero1", "zero3"):
        told[shard] = Counter[str]()
        for one in estimate(f"{ODD} --gpus {nproc} --shard {shard}")["communication"]["collectives"]:
            told[shard][one["operation"]] += one["bytes"] * one["times"] // 4
    sent = {shard: found["sent"] for shard, found in every[nproc].items()}
    assert sent["none"] == told["none"] == {"all-reduce": whole}
    assert sent["fsdp"] == told["zero3"]
    assert whole < sent["fsdp"]["reduce-scatter"] < 1.03 * whole
    assert told["zero1"] == {"reduce-scatter": whole, "all-gather": whole}
    assert sent["zero1"] == {"all-reduce": whole, "broadcast": whole}  # half as much again, as the note says


# ZeRO, table 1: GB on one GPU of weights, gradients and Adam's state, in stages 1, 2 and 3, by the number of GPUs.
TABLE_1: dict[str, dict[int, tuple[float, float, float]]] = {
    "7.5B": {4: (52.5, 41.3, 30), 16: (35.6, 21.6, 7.5), 64: (31.4, 16.6, 1.88), 256: (30.4, 15.4, 0.47),
             1024: (30.1, 15.1, 0.12)},
    "128B": {4: (896, 704, 512), 16: (608, 368, 128), 64: (536, 284, 32), 256: (518, 263, 8), 1024: (513, 257, 2)},
    "1T": {4: (7000, 5500, 4000), 16: (4750, 2875, 1000), 64: (4187, 2218, 250), 256: (4046, 2054, 62.5),
           1024: (4011, 2013, 15.6)},
}  # fmt: skip


@pytest.mark.parametrize("params", TABLE_1)
def test_a_gpu_holds_what_zero_counts(params: str) -> None:
    for gpus, row in TABLE_1[params].items():
        for shard, gigabytes in zip(("zero1", "zero2", "zero3"), row, strict=True):
            known = estimate(f"--params {params} --gpus {gpus} --shard {shard}")["memory"]["known_bytes"]
            assert known == pytest.approx(gigabytes * 1e9, rel=0.01, abs=5e6), (gpus, shard)


@pytest.mark.parametrize(("shard", "factor"), [("none", 2), ("zero1", 2), ("zero2", 2), ("zero3", 3)])
def test_a_step_sends_what_zero_counts(shard: str, factor: int) -> None:
    """ZeRO, section 7: 2 Ψ without sharding and in stages 1 and 2, 3 Ψ in stage 3."""
    found = estimate(f"--params 7.5B --precision bf16 --gpus 64 --shard {shard}")["communication"]
    assert found["sent_bytes"] == pytest.approx(factor * 2 * 7.5e9 * 63 / 64, rel=1e-9)


def test_passes_multiply_what_is_sharded() -> None:
    """ZeRO-3 gathers weights in every pass; DDP reduces gradients once in a step."""
    line = "--params 1B --gpus 8 --batch-size 64 --micro-batch {} --shard {}"
    for shard, times in (("none", 1), ("zero3", 4)):
        whole, parts = (estimate(line.format(n, shard))["communication"] for n in (8, 2))
        assert (whole["passes"], parts["passes"]) == (1, 4)
        assert parts["sent_bytes"] == times * whole["sent_bytes"]
    second = estimate(line.format(2, "zero2"))["communication"]
    assert [one["times"] for one in second["collectives"]] == [4, 1]


def test_adapters_send_few_gradients_and_all_weights() -> None:
    found = estimate("--params 7B --method lora --gpus 8 --shard zero3")["communication"]
    gathered, again, scattered = found["collectives"]
    assert gathered["bytes"] == again["bytes"] > 13e9
    assert scattered["bytes"] < 0.02 * gathered["bytes"]


def test_one_gpu_sends_nothing() -> None:
    found = estimate("--params 1B")
    assert (found["communication"], found["scaling"]) == (None, None)
    assert estimate("--params 1B --gpus 4 --shard none")["scaling"] is None


@pytest.mark.parametrize(
    "run",
    [
        "--arch llama-3-70b --checkpointing full --batch-size 2048 --shard zero3 --gpus 512",
        "--arch gpt2-xl --checkpointing full --batch-size 256 --shard zero1 --gpus 8 --precision fp32",
        "--arch pythia-160m --shard zero3 --optimizer soap --precision bf16 --checkpointing full --gpus 8",
    ],
)
def test_where_more_gpus_do_not_pay_every_doubling_frees_less_than_a_sample(run: str, rules: CompiledRules) -> None:
    found = estimate(run)["scaling"]
    enough, sample = found["enough_gpus"], found["sample_bytes"]
    start = situation(rules, run)
    runs = (replace(start, batch_size=None, micro_batch=n) for n in (8, 9))
    few, more = (estimator.estimate(rules.memory_rules, run, "adamw") for run in runs)
    assert few.activations is not None
    assert more.activations is not None
    assert sample == pytest.approx(more.activations - few.activations, rel=0.01)

    def state(gpus: int) -> int:
        lines = estimator.estimate(rules.memory_rules, replace(start, gpus=gpus), start.optimizer or "adamw").breakdown
        return sum(one.bytes or 0 for one in lines if one.part in ("optimizer state", "master copy"))

    frees = {2**n: state(2**n) - state(2 ** (n + 1)) for n in range(20)}
    assert all(freed < sample for gpus, freed in frees.items() if gpus >= enough)
    assert enough == 1 or frees[enough // 2] >= sample


def test_rows_are_what_another_command_tells() -> None:
    line = "--arch llama-3-70b --checkpointing full --batch-size 2048 --shard zero3 --gpu h100 --gpus {}"
    found = estimate(line.format(512))["scaling"]
    assert found["enough_gpus"] in [scale["gpus"] for scale in found["scales"]]
    for scale in found["scales"]:
        there = estimate(line.format(scale["gpus"]))
        assert scale["optimizer_bytes"] == there["memory"]["optimizer_bytes"]
        assert scale["master_copy_bytes"] == line_of(there, "master copy")["bytes"]
        assert (scale["total_bytes"], scale["fits"]) == (there["memory"]["total_bytes"], there["memory"]["fits"])
        assert scale["largest_micro_batch"] == there["largest_micro_batch"]
        assert scale["micro_batch"] == there["situation"]["micro_batch"]
        assert scale["sent_bytes"] == there["communication"]["sent_bytes"]


def test_no_figure_is_cut_off_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    run = "--arch llama-3.1-405b --gpus 1024 --shard zero3 --batch-size 4096 --gpu h100"
    monkeypatch.setenv("COLUMNS", "60")
    out = optadvise("estimate", *run.split()).out
    for scale in estimate(run)["scaling"]["scales"]:
        row = next(row for row in out.splitlines() if row.strip().startswith(f"{scale['gpus']:,} "))
        assert show_bytes(scale["total_bytes"]) in row
        assert row.endswith(show_bytes(scale["sent_bytes"]))


def test_without_state_on_the_gpu_nothing_is_told_of_it() -> None:
    assert estimate("--params 7B --gpus 8 --shard zero3 --offload")["scaling"]["enough_gpus"] is None


def told(line: str) -> list[int]:
    return [scale["gpus"] for scale in estimate(f"--params 1B --shard zero3 {line}")["scaling"]["scales"]]


def test_gpus_are_told_that_take_equal_shares_of_a_batch() -> None:
    assert told("--gpus 8 --batch-size 16") == [2, 4, 8, 16]
    assert told("--gpus 6 --batch-size 36") == [2, 3, 6, 12]
    assert told("--gpus 8 --batch-size 64 --micro-batch 4") == [2, 4, 8, 16]
    assert told("--gpus 8 --micro-batch 4") == [2, 4, 8, 16, 32]


def test_whole_tensors_are_not_cut_however_many_gpus_share_them() -> None:
    """ZeroRedundancyOptimizer's fullest rank has GPT-2's embedding, on 8 GPUs as on 64."""
    lines = [line(estimate(f"--arch gpt2 --gpus {n} --shard zero1 --precision fp32")) for n in (8, 64)]
    assert [one["interval"]["high"] for one in lines] == [pytest.approx(8 * 50257 * 768, rel=1e-6)] * 2
    assert lines[0]["bytes"] == pytest.approx(8 * lines[1]["bytes"], rel=1e-3)


def test_what_lies_outside_the_layers_may_be_gathered_whole() -> None:
    """FSDP2's root: Llama 3 8B's embedding and head, 128,256 × 4,096 each, and the last norm; their gradients, too."""
    found = line_of(estimate("--arch llama-3-8b --gpus 8 --shard zero3"), "communication")["interval"]
    assert found["high"] - found["expected"] == 4 * (2 * 128256 * 4096 + 4096)
    frozen = line_of(estimate("--arch llama-3-8b --gpus 8 --shard zero3 --method lora"), "communication")["interval"]
    assert frozen["high"] - frozen["expected"] == 2 * (2 * 128256 * 4096 + 4096)


@pytest.mark.parametrize("shard", ["none", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("gpus", [2, 64, 1024, 65536])
def test_the_highest_moment_is_no_lower_than_the_end_of_the_forward_pass(shard: str, gpus: int) -> None:
    """Where gradients are cut, the moment with most of them is no longer the highest."""
    data = estimate(f"--params 70B --gpus {gpus} --shard {shard} --micro-batch 2")
    parts = ("weights", "master copy", "optimizer state", "activations", "logits and loss")
    kept = sum(line["bytes"] for line in data["memory"]["ledger"] if line["part"] in parts)
    assert data["memory"]["total_bytes"] > kept


def test_usual_gpus_are_told_where_no_limit_is_said(catalog: Catalog) -> None:
    found = estimate("--arch gpt2")["largest_micro_batch_by_gpu"]
    assert set(found) == {gpu.id for gpu in catalog.gpus if gpu.usual}
    for name, most in found.items():
        assert estimate(f"--arch gpt2 --gpu {name}")["largest_micro_batch"] == most
    assert estimate("--arch gpt2 --vram 24GB")["largest_micro_batch_by_gpu"] == {}
    assert estimate("--params 30M --model cnn")["largest_micro_batch_by_gpu"] == {}


@pytest.mark.parametrize("ranks", [1, 3, 7, 500])
def test_ranks_hold_every_element_once(ranks: int, rules: CompiledRules) -> None:
    network = tensors(rules)
    rows = [count_elements(shard_rows(network, ranks, rank)) for rank in range(ranks)]
    assert sum(rows) == count_elements(network)
    assert rows == sorted(rows, reverse=True)
    whole = [count_elements(given) for given in assign_whole_weights(network, ranks)]
    assert sum(whole) == count_elements(network)
    assert len(whole) == min(ranks, network.total())
    assert max(whole) - min(whole) <= max(prod(weight.shape) for weight in network)


def test_a_size_alone_is_divided_evenly() -> None:
    whole, part = (estimate(f"--params 7B{more}")["memory"] for more in ("", " --gpus 8 --shard zero3"))
    assert part["optimizer_bytes"] == pytest.approx(whole["optimizer_bytes"] / 8, rel=1e-3)
    assert part["optimizer_bytes"] < GIB * 7
