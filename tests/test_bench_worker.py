"""Real workers: every optimizer of the catalog trains the transformer, and every built-in network is trained.

The cases come from the catalog, so new cards are tested automatically. State bytes must equal those computed from the
card and the shapes of the network.
"""

from __future__ import annotations

import itertools
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
from optadvise.benchmark.training_loop import Training
from optadvise.benchmark.worker_arm import WorkerArm
from optadvise.core.cards import StateTensor
from optadvise.core.json_text import encode_json
from optadvise.memory.optimizer_state import compute_shared_state_bytes, compute_state_bytes
from optadvise.rulebase.catalog import Catalog, load
from tests.conftest import few
from tests.results import MACHINE

# Two short sequences per step, so that the network takes little time.
QUICK = Spec(steps=2, rounds=1, warmup=1, threads=1, batch_size=2, seq_len=16)
TIMEOUT = 120.0


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable torch.compile in the workers: torchao compiles its step for every shape, which takes 40 s."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def measure(spec: Spec, arm: Arm) -> dict[str, Any]:
    """Measure one arm in a real worker and return its JSON."""
    worker = WorkerArm(spec, arm, timeout=TIMEOUT)
    records = runner.run_arms([worker], spec.rounds, progress=runner.ignore_progress, save=lambda _: None)
    (result,) = results.make_result(spec, records, machine=MACHINE).arms
    data: dict[str, Any] = json.loads(encode_json(result))
    return data


def plan_arm(rules: CompiledRules, name: str, spec: Spec) -> Arm:
    (arm,) = plan.plan_arms(rules, [name], spec, control=None, implementation=None)
    return arm


@cache
def build_network(workload: str) -> nn.Module:
    seq_len = QUICK.seq_len if workload == "transformer" else None
    return workloads.build(workload, batch_size=QUICK.batch_size, seq_len=seq_len).module


def compute_expected_state(catalog: Catalog, arm: Arm, workload: str) -> int:
    """Return the state bytes of the network's weights according to the cards."""
    module = build_network(workload)
    weights = dict(module.named_parameters())
    state = _find_state(catalog, arm.optimizer, arm.path)
    if arm.companion is None:
        return _sum_bytes(state, list(weights.values()))
    # The optimizer has the linear layers except the head; the companion has all other parameters.
    linear = {
        f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear) and name != "head"
    }
    companion = catalog.optimizer(arm.optimizer).companion
    assert companion is not None
    companion_state = _find_state(catalog, companion.optimizer, arm.companion.path)
    companion_weights = [weight for name, weight in weights.items() if name not in linear]
    return _sum_bytes(state, [weights[name] for name in linear]) + _sum_bytes(companion_state, companion_weights)


def _find_state(catalog: Catalog, name: str, path: str) -> tuple[StateTensor, ...]:
    card = catalog.optimizer(name)
    implementation = next(i for i in card.implementations if i.path == path)
    return card.state if implementation.state is None else implementation.state


def _sum_bytes(state: tuple[StateTensor, ...], weights: list[nn.Parameter]) -> int:
    return sum(compute_state_bytes(state, tuple(w.shape)) for w in weights) + compute_shared_state_bytes(state)


def check_arm(result: dict[str, Any], catalog: Catalog, arm: Arm, spec: Spec) -> None:
    assert (result["status"], result["error"]) == ("ok", None)
    elements = sum(w.numel() for w in build_network(spec.workload).parameters())
    assert (result["parameters"], result["parameter_bytes"], result["gradient_bytes"]) == (
        elements,
        *[4 * elements] * 2,
    )
    assert result["state_bytes"] == compute_expected_state(catalog, arm, spec.workload)
    assert result["state_bytes_per_parameter"] == result["state_bytes"] / elements
    assert result["tensors"] == len(list(build_network(spec.workload).parameters()))
    for part in PARTS:
        samples = result[f"{part}_seconds"]["samples"]
        assert len(samples) == spec.steps * spec.rounds
        assert all(0 < s < TIMEOUT for s in samples)
    assert 0 < result["optimizer_share"] < 1
    assert result["first_step_seconds"] > 0
    assert result["loss"]["finite"] is True
    assert all(math.isfinite(result["loss"][end]) for end in ("first", "last"))
    assert result["loss"]["first"] == pytest.approx(math.log(256 if spec.workload == "transformer" else 10), rel=0.3)
    assert result["throughput"]["value"] == pytest.approx(spec.batch_size / result["step_seconds"]["median"])
    peak = result["peak_memory_bytes"]
    assert (peak["allocated"], peak["reserved"], result["transient_bytes"]) == (None, None, None)  # on the CPU
    assert peak["process"] > 2**26
    assert result["bandwidth"]["device"] > 1e8
    assert result["bandwidth"]["bytes_per_step"] == 12 * elements + 2 * result["state_bytes"]


# Companion optimizer, train mode, quantized state, paged state, missing package, and the plain case.
_KINDS = ["muon", "schedule-free-adamw", "adamw8bit", "paged-adamw8bit", "adamw4bit", "adamw"]


@pytest.mark.parametrize("name", few(len(_KINDS), sorted(load().optimizer_ids, key=lambda n: n not in _KINDS)))
def test_every_optimizer_trains_the_transformer(rules: CompiledRules, catalog: Catalog, name: str) -> None:
    arm = plan_arm(rules, name, QUICK)
    result = measure(QUICK, arm)
    card = catalog.optimizer(name)
    if card.paged:
        assert (result["status"], result["error_code"]) == ("unsupported", "unsupported")
    elif all(find_spec(i.path.split(".")[0]) is None for i in card.implementations if "cpu" in i.devices):
        assert (result["status"], result["error_code"]) == ("unsupported", "missing-package")
    else:
        check_arm(result, catalog, arm, QUICK)


@pytest.mark.parametrize("workload", [n for n in WORKLOADS if n != "transformer"])
def test_every_network_trains(rules: CompiledRules, catalog: Catalog, workload: str) -> None:
    spec = replace(QUICK, workload=workload, seq_len=None)
    arm = plan_arm(rules, "adamw", spec)
    check_arm(measure(spec, arm), catalog, arm, spec)


def test_optimizer_only(rules: CompiledRules, catalog: Catalog) -> None:
    spec = replace(QUICK, optimizer_only=True, params=200_000)
    arm = plan_arm(rules, "adamw", spec)
    result = measure(spec, arm)
    shapes = workloads.parameter_shapes(200_000)
    elements = sum(math.prod(shape) for shape in shapes)
    assert (result["status"], result["parameters"], result["tensors"]) == ("ok", elements, len(shapes))
    assert result["state_bytes"] == sum(
        compute_state_bytes(_find_state(catalog, "adamw", arm.path), shape) for shape in shapes
    )
    assert result["optimizer_seconds"] == result["step_seconds"]
    assert result["forward_seconds"] == {"median": None, "ci95": None, "samples": []}
    assert (result["throughput"]["value"], result["loss"]["first"], result["loss"]["finite"]) == (None, None, True)


def test_bytes_of_bf16_weights(rules: CompiledRules, catalog: Catalog) -> None:
    spec = replace(QUICK, dtype="bf16")
    arm = plan_arm(rules, "adamw", spec)
    result = measure(spec, arm)
    weights = list(build_network("transformer").parameters())
    assert (result["status"], result["parameter_bytes"]) == ("ok", 2 * result["parameters"])
    expected = (
        compute_state_bytes(_find_state(catalog, "adamw", arm.path), tuple(w.shape), "bfloat16") for w in weights
    )
    assert result["state_bytes"] == sum(expected)


def test_losses_are_deterministic_for_a_seed(rules: CompiledRules) -> None:
    spec = replace(QUICK, seed=3)
    losses = [measure(spec, plan_arm(rules, "adamw", spec))["loss"] for _ in range(2)]
    assert losses[0] == losses[1]


def test_steps_that_the_gradient_scaler_skips_are_not_timed(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(QUICK, steps=3, optimizer_only=True, params=100_000)
    training = Training(spec, plan_arm(rules, "sgd", spec))
    skipped = iter([True, False, False, True, True, False])
    seconds = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def step() -> dict[str, float]:
        training.is_skipped = next(skipped)
        return {"step": next(seconds)}

    monkeypatch.setattr(training, "step", step)
    assert training.round().samples == {"step": [2.0, 3.0, 6.0]}
    skipped = iter(lambda: True, False)
    seconds = itertools.count(0.0)
    with pytest.raises(OverflowError):
        training.round()
