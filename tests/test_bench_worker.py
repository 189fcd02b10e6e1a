"""The real worker: every optimizer of the catalogue trains the transformer, and every network is trained.

The cases come from the catalogue, so a new card is tested by being there. State is compared, to the byte, with the
card's arithmetic over the shapes of the network.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
from msgspec.structs import replace
from torch import nn

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import plan, results, runner, workloads
from optadvise.benchmark.options import WORKLOADS
from optadvise.benchmark.records import PARTS
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.worker_arm import WorkerArm
from optadvise.core.cards import StateTensor
from optadvise.core.json_text import encode_json
from optadvise.memory.optimizer_state import compute_shared_state_bytes, compute_state_bytes
from optadvise.rulebase.catalog import Catalog, load
from tests.conftest import few
from tests.results import MACHINE

# Two short sentences a step: what an optimizer does is the same, and the network takes no time.
QUICK = Spec(steps=2, rounds=1, warmup=1, threads=1, batch_size=2, seq_len=16)
TIMEOUT = 120.0


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn torch.compile off in the workers: torchao compiles its step anew for every shape, for 40 s in all."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def measured(spec: Spec, arm: Arm) -> dict[str, Any]:
    """Return what one arm of a real run gave, as in the result's JSON."""
    told: list[str] = []
    worker = WorkerArm(spec, arm, timeout=TIMEOUT)
    records = runner.run_arms(
        [worker], spec.rounds, progress=lambda what, *_: told.append(what), save=lambda _: None
    )  # fmt: skip
    (found,) = results.make_result(spec, records, machine=MACHINE).arms
    data: dict[str, Any] = json.loads(encode_json(found))
    return data


def only(rules: CompiledRules, name: str, spec: Spec) -> Arm:
    (arm,) = plan.plan_arms(rules, [name], spec, control=None, implementation=None)
    return arm


@cache
def network(workload: str) -> nn.Module:
    seq_len = QUICK.seq_len if workload == "transformer" else None
    return workloads.build(workload, batch_size=QUICK.batch_size, seq_len=seq_len).module


def expected_state(catalog: Catalog, arm: Arm, workload: str) -> int:
    """Return the bytes of state that the cards say the network's weights cause."""
    module = network(workload)
    weights = dict(module.named_parameters())
    own = _state(catalog, arm.optimizer, arm.path)
    if arm.companion is None:
        return _bytes(own, list(weights.values()))
    # The linear layers between the embeddings and the head are its own, everything else is the companion's.
    linear = {
        f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear) and name != "head"
    }
    companion = catalog.optimizer(arm.optimizer).companion
    assert companion is not None
    other = companion.optimizer
    theirs = [weight for name, weight in weights.items() if name not in linear]
    return _bytes(own, [weights[name] for name in linear]) + _bytes(_state(catalog, other, arm.companion.path), theirs)


def _state(catalog: Catalog, name: str, path: str) -> tuple[StateTensor, ...]:
    card = catalog.optimizer(name)
    made = next(i for i in card.implementations if i.path == path)
    return card.state if made.state is None else made.state


def _bytes(state: tuple[StateTensor, ...], weights: list[nn.Parameter]) -> int:
    return sum(compute_state_bytes(state, tuple(w.shape)) for w in weights) + compute_shared_state_bytes(state)


def check(found: dict[str, Any], catalog: Catalog, arm: Arm, spec: Spec) -> None:
    assert (found["status"], found["error"]) == ("ok", None)
    elements = sum(w.numel() for w in network(spec.workload).parameters())
    assert (found["parameters"], found["parameter_bytes"], found["gradient_bytes"]) == (elements, *[4 * elements] * 2)
    assert found["state_bytes"] == expected_state(catalog, arm, spec.workload)
    assert found["state_bytes_per_parameter"] == found["state_bytes"] / elements
    assert found["tensors"] == len(list(network(spec.workload).parameters()))
    for part in PARTS:
        samples = found[f"{part}_seconds"]["samples"]
        assert len(samples) == spec.steps * spec.rounds
        assert all(0 < s < TIMEOUT for s in samples)
    assert 0 < found["optimizer_share"] < 1
    assert found["first_step_seconds"] > 0
    assert found["loss"]["finite"] is True
    assert all(math.isfinite(found["loss"][end]) for end in ("first", "last"))
    assert found["loss"]["first"] == pytest.approx(math.log(256 if spec.workload == "transformer" else 10), rel=0.3)
    assert found["throughput"]["value"] == pytest.approx(spec.batch_size / found["step_seconds"]["median"])
    peak = found["peak_memory_bytes"]
    assert (peak["allocated"], peak["reserved"], found["transient_bytes"]) == (None, None, None)  # of a CPU
    assert peak["process"] > 2**26
    assert found["bandwidth"]["device"] > 1e8
    assert found["bandwidth"]["bytes_per_step"] == 12 * elements + 2 * found["state_bytes"]


# A companion, a mode of training, quantised state, paged state, a package that is missing, and none of these.
_KINDS = ["muon", "schedule-free-adamw", "adamw8bit", "paged-adamw8bit", "adamw4bit", "adamw"]


@pytest.mark.parametrize("name", few(len(_KINDS), sorted(load().optimizer_ids, key=lambda n: n not in _KINDS)))
def test_every_optimizer_trains_the_transformer(rules: CompiledRules, catalog: Catalog, name: str) -> None:
    arm = only(rules, name, QUICK)
    found = measured(QUICK, arm)
    card = catalog.optimizer(name)
    if card.paged:
        assert found["status"] == "unsupported"
        assert found["error"].startswith("paged state needs CUDA")
    elif all(find_spec(i.path.split(".")[0]) is None for i in card.implementations if "cpu" in i.devices):
        assert found["status"] == "unsupported"
        assert "pip install" in found["error"]
    else:
        check(found, catalog, arm, QUICK)


@pytest.mark.parametrize("workload", [n for n in WORKLOADS if n != "transformer"])
def test_every_network_is_trained(rules: CompiledRules, catalog: Catalog, workload: str) -> None:
    spec = replace(QUICK, workload=workload, seq_len=None)
    arm = only(rules, "adamw", spec)
    check(measured(spec, arm), catalog, arm, spec)


def test_steps_alone_on_given_shapes(rules: CompiledRules, catalog: Catalog) -> None:
    spec = replace(QUICK, optimizer_only=True, params=200_000)
    arm = only(rules, "adamw", spec)
    found = measured(spec, arm)
    shapes = workloads.parameter_shapes(200_000)
    elements = sum(math.prod(shape) for shape in shapes)
    assert (found["status"], found["parameters"], found["tensors"]) == ("ok", elements, len(shapes))
    assert found["state_bytes"] == sum(
        compute_state_bytes(_state(catalog, "adamw", arm.path), shape) for shape in shapes
    )
    assert found["optimizer_seconds"] == found["step_seconds"]
    assert found["forward_seconds"] == {"median": None, "ci95": None, "samples": []}
    assert (found["throughput"]["value"], found["loss"]["first"], found["loss"]["finite"]) == (None, None, True)


def test_low_precision_weights_have_their_bytes(rules: CompiledRules, catalog: Catalog) -> None:
    spec = replace(QUICK, dtype="bf16")
    arm = only(rules, "adamw", spec)
    found = measured(spec, arm)
    weights = list(network("transformer").parameters())
    assert (found["status"], found["parameter_bytes"]) == ("ok", 2 * found["parameters"])
    said = (compute_state_bytes(_state(catalog, "adamw", arm.path), tuple(w.shape), "bfloat16") for w in weights)
    assert found["state_bytes"] == sum(said)


def test_the_same_seed_gives_the_same_losses(rules: CompiledRules) -> None:
    spec = replace(QUICK, seed=3)
    losses = [measured(spec, only(rules, "adamw", spec))["loss"] for _ in range(2)]
    assert losses[0] == losses[1]
