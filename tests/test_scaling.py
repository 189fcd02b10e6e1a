"""Several GPUs in `estimate`: shards and communication against ZeRO's figures and real ranks, and scaling."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
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
from optadvise.memory.search import with_micro_batch
from optadvise.memory.sharding import assign_whole_weights, count_elements, shard_rows
from optadvise.rulebase.catalog import Catalog
from tests.cli import optadvise
from tests.conftest import rotated
from tests.rank_memory import measure_ranks
from tests.test_estimate import GIB, estimate, line_of

# A network whose dimensions are not divisible by the number of ranks.
ODD = "--hidden 60 --layers 2 --heads 4 --vocab 502 --ffn 101 --precision fp32 --batch-size 8"
ZERO1 = ["adamw", "lion", "sgd-momentum", "adafactor", "adamw8bit", "muon", "soap"]
FSDP = ["adamw", "lion", "sgd-momentum", "adan"]
FEWER = ["adamw", "sgd-momentum", "adafactor", "muon"]
ARMS = {
    2: {"none": ["adamw"], "zero1": ZERO1, "fsdp": FSDP},
    4: {"none": ["adamw"], "zero1": FEWER, "fsdp": FEWER[:1]},  # optimizers without large imports
}
RANKS = rotated(1, [*ARMS])


def parse_situation(rules: CompiledRules, line: str) -> Situation:
    """Return the situation of a command line."""
    from optadvise.advice.inputs import parse_inputs

    arguments = line.split()
    options = {flag[2:].replace("-", "_"): value for flag, value in zip(arguments[::2], arguments[1::2], strict=True)}
    return complete_situation(rules, parse_inputs(rules.catalog, options))


def list_weights(rules: CompiledRules) -> Counter[Weight]:
    """Return the weights of the network ODD."""
    size = find_network_size(rules.memory_rules, select_memory_inputs(parse_situation(rules, ODD)))
    assert size is not None
    assert size.trained_weights is not None
    return size.trained_weights


@pytest.fixture(scope="module")
def measure(rules: CompiledRules, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Any]:
    """Return a function that returns the memory and communication of a number of ranks, measured once."""
    weights = [(weight.shape, weight.kind) for weight in list_weights(rules).elements()]
    folder = tmp_path_factory.mktemp("ranks")
    return functools.cache(lambda nproc: measure_ranks(weights, ARMS[nproc], nproc, folder, rules.catalog))


def get_state_line(data: dict[str, Any]) -> dict[str, Any]:
    return line_of(data, "optimizer state")


@pytest.mark.parametrize("nproc", RANKS)
def test_zero3_shards_match_real_ranks(measure: Callable[[int], Any], nproc: int, rules: CompiledRules) -> None:
    for name in ARMS[nproc]["fsdp"]:
        state = list_state_tensors(rules.catalog.optimizer(name))
        shards = [shard_rows(list_weights(rules), nproc, rank) for rank in range(nproc)]
        expected = [sum(n * compute_state_bytes(state, w.shape) for w, n in weights.items()) for weights in shards]
        assert measure(nproc)["fsdp"]["state"][name] == expected, name
        data = estimate(f"{ODD} --gpus {nproc} --shard zero3 --optimizer {name}")
        assert get_state_line(data)["bytes"] == max(expected) > min(expected), name
        assert data["memory"]["weights_bytes"] == max(measure(nproc)["fsdp"]["weights"]), name
        assert data["memory"]["gradients_bytes"] == data["memory"]["weights_bytes"], name


@pytest.mark.parametrize("nproc", RANKS)
def test_zero1_state_matches_real_ranks(measure: Callable[[int], Any], nproc: int) -> None:
    """The expected figure is an even split (ZeRO), the high end the largest rank of ZeroRedundancyOptimizer."""
    for name in ARMS[nproc]["zero1"]:
        states = measure(nproc)["zero1"]["state"][name]
        data = estimate(f"{ODD} --gpus {nproc} --shard zero1 --optimizer {name}")
        line = get_state_line(data)
        if name == "adamw8bit":  # the high end covers 32-bit state of embeddings
            assert line["interval"]["high"] >= max(states)
        else:
            assert line["interval"]["high"] == max(states), name
        assert line["bytes"] == pytest.approx(sum(states) / nproc, rel=0.02), name  # includes state per optimizer
        assert data["memory"]["weights_bytes"] == max(measure(nproc)["zero1"]["weights"]), name


@pytest.mark.parametrize("nproc", RANKS)
def test_collectives_match_real_ranks(measure: Callable[[int], Any], nproc: int, rules: CompiledRules) -> None:
    """The elements are equal, including the padding of FSDP2."""
    elements = count_elements(list_weights(rules))
    estimated = {}
    for shard in ("none", "zero1", "zero3"):
        estimated[shard] = Counter[str]()
        for collective in estimate(f"{ODD} --gpus {nproc} --shard {shard}")["communication"]["collectives"]:
            estimated[shard][collective["operation"]] += collective["bytes"] * collective["times"] // 4
    sent = {shard: result["sent"] for shard, result in measure(nproc).items()}
    assert sent["none"] == estimated["none"] == {"all-reduce": elements}
    assert sent["fsdp"] == estimated["zero3"]
    assert elements < sent["fsdp"]["reduce-scatter"] < 1.03 * elements
    assert estimated["zero1"] == {"reduce-scatter": elements, "all-gather": elements}
    assert sent["zero1"] == {"all-reduce": elements, "broadcast": elements}  # 1.5 times the estimate, as its note says


# ZeRO, table 1: GB on one GPU of weights, gradients and Adam's state, in stages 1, 2 and 3, by the number of GPUs.
TABLE_1: dict[str, dict[int, tuple[float, float, float]]] = {
    "7.5B": {4: (52.5, 41.3, 30), 16: (35.6, 21.6, 7.5), 64: (31.4, 16.6, 1.88), 256: (30.4, 15.4, 0.47),
             1024: (30.1, 15.1, 0.12)},
    "128B": {4: (896, 704, 512), 16: (608, 368, 128), 64: (536, 284, 32), 256: (518, 263, 8), 1024: (513, 257, 2)},
    "1T": {4: (7000, 5500, 4000), 16: (4750, 2875, 1000), 64: (4187, 2218, 250), 256: (4046, 2054, 62.5),
           1024: (4011, 2013, 15.6)},
}  # fmt: skip


@pytest.mark.parametrize("params", TABLE_1)
def test_model_states_match_the_zero_paper(params: str) -> None:
    for gpus, row in TABLE_1[params].items():
        for shard, gigabytes in zip(("zero1", "zero2", "zero3"), row, strict=True):
            model_states = estimate(f"--params {params} --gpus {gpus} --shard {shard}")["memory"]["known_bytes"]
            assert model_states == pytest.approx(gigabytes * 1e9, rel=0.01, abs=5e6), (gpus, shard)


@pytest.mark.parametrize(("shard", "factor"), [("none", 2), ("zero1", 2), ("zero2", 2), ("zero3", 3)])
def test_communication_matches_the_zero_paper(shard: str, factor: int) -> None:
    """ZeRO, section 7: 2 Ψ without sharding and in stages 1 and 2, 3 Ψ in stage 3."""
    result = estimate(f"--params 7.5B --precision bf16 --gpus 64 --shard {shard}")["communication"]
    assert result["sent_bytes"] == pytest.approx(factor * 2 * 7.5e9 * 63 / 64, rel=1e-9)


def test_micro_batches_multiply_sharded_communication() -> None:
    """ZeRO-3 gathers weights for every micro-batch; DDP reduces gradients once per step."""
    line = "--params 1B --gpus 8 --batch-size 64 --micro-batch {} --shard {}"
    for shard, times in (("none", 1), ("zero3", 4)):
        single, several = (estimate(line.format(n, shard))["communication"] for n in (8, 2))
        assert (single["passes"], several["passes"]) == (1, 4)
        assert several["sent_bytes"] == times * single["sent_bytes"]
    second = estimate(line.format(2, "zero2"))["communication"]
    assert [collective["times"] for collective in second["collectives"]] == [4, 1]


def test_adapters_communicate_few_gradients_and_all_weights() -> None:
    result = estimate("--params 7B --method lora --gpus 8 --shard zero3")["communication"]
    forward, backward, scattered = result["collectives"]
    assert forward["bytes"] == backward["bytes"] > 13e9
    assert scattered["bytes"] < 0.02 * forward["bytes"]


def test_one_gpu_has_no_communication() -> None:
    result = estimate("--params 1B")
    assert (result["communication"], result["scaling"]) == (None, None)
    assert estimate("--params 1B --gpus 4 --shard none")["scaling"] is None


@pytest.mark.parametrize(
    "run",
    [
        "--arch llama-3-70b --checkpointing full --batch-size 2048 --shard zero3 --gpus 512",
        "--arch gpt2-xl --checkpointing full --batch-size 256 --shard zero1 --gpus 8 --precision fp32",
        "--arch pythia-160m --shard zero3 --optimizer soap --precision bf16 --checkpointing full --gpus 8",
    ],
)
def test_beyond_enough_gpus_a_doubling_frees_less_than_one_sample(run: str, rules: CompiledRules) -> None:
    result = estimate(run)["scaling"]
    enough, sample = result["enough_gpus"], result["sample_bytes"]
    start = parse_situation(rules, run)
    optimizer = start.optimizer or "adamw"
    start = with_micro_batch(rules.memory_rules, start, optimizer)
    assert sample == compute_sample_bytes(rules, start, optimizer)

    def compute_total(gpus: int) -> int:
        total = estimator.estimate(rules.memory_rules, replace(start, gpus=gpus), optimizer).total
        assert total is not None
        return total

    freed_bytes = {2**n: compute_total(2**n) - compute_total(2 ** (n + 1)) for n in range(20)}
    assert all(freed < sample for gpus, freed in freed_bytes.items() if gpus >= enough)
    assert enough == 1 or freed_bytes[enough // 2] >= sample


def compute_sample_bytes(rules: CompiledRules, run: Situation, optimizer: str) -> int:
    """Return what one more sample in the micro-batch adds to the total, with equal accumulation."""
    micro_batch, batch = run.micro_batch or 1, run.batch_size or (run.micro_batch or 1) * run.gpus
    larger = replace(run, micro_batch=micro_batch + 1, batch_size=batch // micro_batch * (micro_batch + 1))
    totals = [estimator.estimate(rules.memory_rules, each, optimizer).total for each in (run, larger)]
    assert None not in totals
    return (totals[1] or 0) - (totals[0] or 0)


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_one_more_sample_adds_its_bytes_to_the_total(micro_batch: int) -> None:
    line = "--arch llama-3-8b --gpus 4 --gpu a100 --shard zero3 --micro-batch {}"
    fewer, more = (estimate(line.format(n)) for n in (micro_batch, micro_batch + 1))
    added = more["memory"]["total_bytes"] - fewer["memory"]["total_bytes"]
    assert fewer["scaling"]["sample_bytes"] == added


def test_scaling_rows_equal_estimates_for_their_gpus() -> None:
    line = "--arch llama-3-70b --checkpointing full --batch-size 2048 --shard zero3 --gpu h100 --gpus {}"
    result = estimate(line.format(512))["scaling"]
    assert result["enough_gpus"] in [scale["gpus"] for scale in result["scales"]]
    for scale in result["scales"]:
        expected = estimate(line.format(scale["gpus"]))
        assert scale["optimizer_bytes"] == expected["memory"]["optimizer_bytes"]
        assert scale["master_copy_bytes"] == line_of(expected, "master copy")["bytes"]
        assert (scale["total_bytes"], scale["fits"]) == (expected["memory"]["total_bytes"], expected["memory"]["fits"])
        assert scale["largest_micro_batch"] == expected["largest_micro_batch"]
        assert scale["micro_batch"] == expected["situation"]["micro_batch"]
        assert scale["sent_bytes"] == expected["communication"]["sent_bytes"]


def test_figures_are_complete_at_60_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    run = "--arch llama-3.1-405b --gpus 1024 --shard zero3 --batch-size 4096 --gpu h100"
    monkeypatch.setenv("COLUMNS", "60")
    _, _, table = optadvise("estimate", *run.split()).out.partition("Other numbers of GPUs")
    for scale in estimate(run)["scaling"]["scales"]:
        row = next(row for row in table.splitlines() if row.strip().startswith(f"{scale['gpus']:,} "))
        assert show_bytes(scale["total_bytes"]) in row
        assert row.endswith(show_bytes(scale["sent_bytes"]))


def test_offloaded_state_has_no_enough_gpus() -> None:
    assert estimate("--params 7B --gpus 8 --shard zero3 --offload")["scaling"]["enough_gpus"] is None


def list_gpu_counts(line: str) -> list[int]:
    return [scale["gpus"] for scale in estimate(f"--params 1B --shard zero3 {line}")["scaling"]["scales"]]


def test_scaling_lists_gpu_counts_that_divide_the_batch() -> None:
    assert list_gpu_counts("--gpus 8 --batch-size 16") == [2, 4, 8, 16]
    assert list_gpu_counts("--gpus 6 --batch-size 36") == [2, 3, 6, 12]
    assert list_gpu_counts("--gpus 8 --batch-size 64 --micro-batch 4") == [2, 4, 8, 16]
    assert list_gpu_counts("--gpus 8 --micro-batch 4") == [2, 4, 8, 16, 32]


def test_zero1_high_end_is_the_largest_tensor() -> None:
    """The largest rank of ZeroRedundancyOptimizer has GPT-2's embedding, on 8 GPUs and on 64."""
    lines = [get_state_line(estimate(f"--arch gpt2 --gpus {n} --shard zero1 --precision fp32")) for n in (8, 64)]
    assert [state["interval"]["high"] for state in lines] == [pytest.approx(8 * 50257 * 768, rel=1e-6)] * 2
    assert lines[0]["bytes"] == pytest.approx(8 * lines[1]["bytes"], rel=1e-3)


def test_interval_covers_an_fsdp_unit_of_the_root_module() -> None:
    """The root of Llama 3 8B: embedding and head, 128,256 × 4,096 each, the last norm, and their gradients."""
    interval = line_of(estimate("--arch llama-3-8b --gpus 8 --shard zero3"), "communication")["interval"]
    assert interval["high"] - interval["expected"] == 4 * (2 * 128256 * 4096 + 4096)
    frozen = line_of(estimate("--arch llama-3-8b --gpus 8 --shard zero3 --method lora"), "communication")["interval"]
    assert frozen["high"] - frozen["expected"] == 2 * (2 * 128256 * 4096 + 4096)


@pytest.mark.parametrize("shard", ["none", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("gpus", [2, 64, 1024, 65536])
def test_peak_is_at_least_the_end_of_the_forward_pass(shard: str, gpus: int) -> None:
    """With sharded gradients, the peak is not the moment with most gradients."""
    data = estimate(f"--params 70B --gpus {gpus} --shard {shard} --micro-batch 2")
    parts = ("weights", "master copy", "optimizer state", "activations", "logits and loss")
    at_forward_end = sum(line["bytes"] for line in data["memory"]["ledger"] if line["part"] in parts)
    assert data["memory"]["total_bytes"] > at_forward_end


def test_without_a_limit_micro_batches_of_common_gpus_are_listed(catalog: Catalog) -> None:
    result = estimate("--arch gpt2")["largest_micro_batch_by_gpu"]
    assert set(result) == {gpu.id for gpu in catalog.gpus if gpu.usual}
    for name, largest in result.items():
        assert estimate(f"--arch gpt2 --gpu {name}")["largest_micro_batch"] == largest
    assert estimate("--arch gpt2 --vram 24GB")["largest_micro_batch_by_gpu"] == {}
    assert estimate("--params 30M --model cnn")["largest_micro_batch_by_gpu"] == {}


@pytest.mark.parametrize("ranks", [1, 3, 7, 500])
def test_shards_contain_every_element_once(ranks: int, rules: CompiledRules) -> None:
    network = list_weights(rules)
    rows = [count_elements(shard_rows(network, ranks, rank)) for rank in range(ranks)]
    assert sum(rows) == count_elements(network)
    assert rows == sorted(rows, reverse=True)
    assigned = [count_elements(weights) for weights in assign_whole_weights(network, ranks)]
    assert sum(assigned) == count_elements(network)
    assert len(assigned) == min(ranks, network.total())
    assert max(assigned) - min(assigned) <= max(prod(weight.shape) for weight in network)


def test_unknown_shape_is_split_evenly() -> None:
    single, shard = (estimate(f"--params 7B{more}")["memory"] for more in ("", " --gpus 8 --shard zero3"))
    assert shard["optimizer_bytes"] == pytest.approx(single["optimizer_bytes"] / 8, rel=1e-3)
    assert shard["optimizer_bytes"] < GIB * 7
