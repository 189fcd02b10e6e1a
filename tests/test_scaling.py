"""More than one GPU in `estimate`: shares and traffic against ZeRO's figures and real ranks; where more stop paying."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import pytest

from optadvise.advisor import Advisor
from optadvise.catalog import Catalog
from optadvise.memory import shared_state_bytes, state_bytes
from optadvise.memory.records import Weight
from optadvise.memory.sharded import elements, fullest, held
from tests.held import measured
from tests.test_estimate import GIB, estimate, line_of

# A network whose dimensions no number of ranks divides.
ODD = "--hidden 60 --layers 2 --heads 4 --vocab 502 --ffn 101 --precision fp32 --batch-size 8"
ZERO1 = ["adamw", "lion", "sgd-momentum", "adafactor", "adamw8bit"]
FSDP = ["adamw", "lion", "sgd-momentum", "adan"]


def tensors(advisor: Advisor) -> Counter[Weight]:
    """Return the weights of that network."""
    from optadvise.answers import read

    said = dict(zip((word[2:].replace("-", "_") for word in ODD.split()[::2]), ODD.split()[1::2], strict=True))
    size = advisor.sizing.size(advisor.situation(read(advisor.catalog, said)))
    assert size is not None
    assert size.tensors is not None
    return size.tensors


@pytest.fixture(scope="module")
def every(request: pytest.FixtureRequest, advisor: Advisor, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What two and four ranks hold and send."""
    shapes = [weight.shape for weight in tensors(advisor).elements()]
    wanted = {"none": ["adamw"], "zero1": ZERO1, "fsdp": FSDP}
    folder = tmp_path_factory.mktemp("held")
    return {nproc: measured(shapes, wanted, nproc, folder, advisor.catalog) for nproc in (2, 4)}


@pytest.mark.parametrize("nproc", [2, 4])
@pytest.mark.parametrize(("shard", "name"), [*(("zero1", n) for n in ZERO1), *(("fsdp", n) for n in FSDP)])
def test_every_ranks_state_is_what_the_arithmetic_says(
    every: dict[int, Any], nproc: int, shard: str, name: str, advisor: Advisor
) -> None:
    card = advisor.catalog.optimizer(name)
    made = card.implementations[0]
    state = card.state if made.state is None else made.state
    shares = held(tensors(advisor), nproc, shard)
    expected = [
        sum(n * state_bytes(state, w.shape) for w, n in share.items()) + shared_state_bytes(state) for share in shares
    ]
    assert every[nproc][shard]["state"][name] == expected


@pytest.mark.parametrize("nproc", [2, 4])
@pytest.mark.parametrize(("flag", "shard"), [("zero1", "zero1"), ("zero3", "fsdp")])
def test_the_ledger_is_the_fullest_ranks(every: dict[int, Any], nproc: int, flag: str, shard: str) -> None:
    for name, states in every[nproc][shard]["state"].items():
        data = estimate(f"{ODD} --gpus {nproc} --shard {flag} --optimizer {name}")
        assert data["memory"]["optimizer_bytes"] == max(states)
        assert data["memory"]["weights_bytes"] == max(every[nproc][shard]["weights"])


@pytest.mark.parametrize("nproc", [2, 4])
def test_collectives_are_those_of_the_engine(every: dict[int, Any], nproc: int, advisor: Advisor) -> None:
    """Whole where a network is not cut; where it is, with the rows that fill the last ranks' pieces."""
    network = tensors(advisor)
    padded = nproc * elements(fullest(network, nproc, "fsdp"))
    assert elements(network) < padded < 1.03 * elements(network)
    expected = {
        "none": {"all-reduce": elements(network)},
        "zero1": {"all-reduce": elements(network), "broadcast": elements(network)},
        "fsdp": {"all-gather": 2 * padded, "reduce-scatter": padded},
    }
    assert {shard: found["sent"] for shard, found in every[nproc].items()} == expected
    for flag, shard in (("none", "none"), ("zero1", "zero1"), ("zero3", "fsdp")):
        told = estimate(f"{ODD} --gpus {nproc} --shard {flag}")["communication"]
        sums: dict[str, int] = {}
        for one in told["collectives"]:
            sums[one["operation"]] = sums.get(one["operation"], 0) + one["bytes"] * one["times"]
        filled = padded / elements(network) if flag == "zero3" else 1
        assert {name: 4 * n for name, n in expected[shard].items()} == pytest.approx(
            {name: filled * n for name, n in sums.items()}
        )


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


@pytest.mark.parametrize(("shard", "factor", "published"), [("none", 2, 2), ("zero2", 2, 2), ("zero3", 3, 3),
                                                            ("zero1", 3, 2)])  # fmt: skip
def test_a_step_sends_what_zero_counts(shard: str, factor: int, published: int) -> None:
    """ZeRO, section 7: 2 Ψ without sharding and in stages 1 and 2, 3 Ψ in stage 3; torch's adds 1 to DDP's 2."""
    found = estimate(f"--params 7.5B --precision bf16 --gpus 64 --shard {shard}")["communication"]
    assert found["sent_bytes"] == pytest.approx(factor * 2 * 7.5e9 * 63 / 64, rel=1e-9)
    assert found["published_factor"] == published
    assert bool(found["note"]) == (factor != published)


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


def test_where_more_gpus_stop_paying_is_where_a_doubling_frees_less_than_a_sample() -> None:
    line = "--arch llama-3-70b --checkpointing full --batch-size 2048 --shard zero3 --gpus {}"
    found = estimate(line.format(512))["scaling"]
    enough, sample = found["enough_gpus"], found["sample_bytes"]
    memory = estimate(line.format(512))["memory"]
    assert sample == memory["activations_bytes"] // 4

    def state(gpus: int) -> int:
        data = estimate(line.format(gpus))
        return sum(line_of(data, part)["bytes"] for part in ("optimizer state", "master copy"))

    assert state(enough) - state(2 * enough) < sample <= state(enough // 2) - state(enough)
    for scale in found["scales"]:
        assert scale["optimizer_bytes"] == state(scale["gpus"])
        there = estimate(line.format(scale["gpus"]))
        assert scale["total_bytes"] == there["memory"]["total_bytes"]
        assert scale["sent_bytes"] == there["communication"]["sent_bytes"]
    assert enough in [scale["gpus"] for scale in found["scales"]]


def told(line: str) -> list[int]:
    return [scale["gpus"] for scale in estimate(f"--params 1B --shard zero3 {line}")["scaling"]["scales"]]


def test_gpus_are_told_that_take_equal_shares_of_a_batch() -> None:
    assert told("--gpus 8 --batch-size 16") == [2, 4, 8, 16]
    assert told("--gpus 6 --batch-size 36") == [2, 3, 6, 12]
    assert told("--gpus 8 --batch-size 64 --micro-batch 4") == [2, 4, 8, 16]
    assert told("--gpus 8 --micro-batch 4") == [2, 4, 8, 16, 32]


def test_whole_tensors_are_not_cut_however_many_gpus_share_them() -> None:
    """ZeroRedundancyOptimizer's fullest rank has GPT-2's embedding, on 8 GPUs as on 64."""
    states = [
        estimate(f"--arch gpt2 --gpus {n} --shard zero1 --precision fp32")["memory"]["optimizer_bytes"] for n in (8, 64)
    ]
    assert states == [pytest.approx(8 * 50257 * 768, rel=1e-6)] * 2


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


@pytest.mark.parametrize("sharding", ["none", "zero1", "fsdp"])
@pytest.mark.parametrize("ranks", [1, 3, 7, 500])
def test_ranks_hold_every_element_once(sharding: str, ranks: int, advisor: Advisor) -> None:
    network = tensors(advisor)
    shares = held(network, ranks, sharding)
    assert len(shares) == ranks
    times = ranks if sharding == "none" else 1
    assert sum(elements(share) for share in shares) == times * elements(network)
    assert max(elements(share) for share in shares) == elements(fullest(network, ranks, sharding))
    if sharding == "zero1":  # no rank has more than the least and one tensor besides
        largest = max(prod(weight.shape) for weight in network)
        sizes = [elements(share) for share in shares]
        assert max(sizes) - min(sizes) <= largest


def test_a_size_alone_is_divided_evenly() -> None:
    whole, part = (estimate(f"--params 7B{more}")["memory"] for more in ("", " --gpus 8 --shard zero3"))
    assert part["optimizer_bytes"] == pytest.approx(whole["optimizer_bytes"] / 8, rel=1e-3)
    assert part["optimizer_bytes"] < GIB * 7
