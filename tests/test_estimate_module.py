"""`estimate --workload`: a user's module with fake tensors, and the cards compared with traced optimizers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.fake_tensors.client import trace_step
from optadvise.fake_tensors.estimate import request_optimizers
from optadvise.fake_tensors.records import TracedStep
from optadvise.memory.optimizer_state import compute_state_bytes, list_state_tensors
from optadvise.rulebase.catalog import load
from tests.cli import optadvise
from tests.test_estimate import SCHEMA

pytest.importorskip("torch", reason="fake tensors require torch")

SQUARE = 512
MODULE = f"""
import torch
from torch import nn

def squares():
    layers = [nn.Linear({SQUARE}, {SQUARE}, bias=False) for _ in range(8)]
    return nn.Sequential(*layers), [(torch.randn(4, {SQUARE}), torch.randint(0, {SQUARE}, (4,)))]
"""
PARAMETERS = 8 * SQUARE * SQUARE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    (path / "own_module.py").write_text(MODULE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def steps(folder: Path) -> dict[str, TracedStep]:
    rules = CompiledRules(load())
    requests = list(request_optimizers(rules, rules.catalog.optimizer_ids, fused=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {
            precision: trace_step("own_module:squares", precision, requests, timeout=300)
            for precision in ("fp32", "bf16")
        }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", load().optimizer_ids)
def test_card_equals_traced_optimizer(steps: dict[str, TracedStep], name: str, precision: str) -> None:
    rules = CompiledRules(load())
    step = next(entry for entry in steps[precision].optimizers if entry.id == name)
    if step.figures is None:
        pytest.skip(f"cannot be traced: {step.reason}")
    state = list_state_tensors(rules.catalog.optimizer(name))
    card = 8 * compute_state_bytes(state, (SQUARE, SQUARE), "bfloat16" if precision == "bf16" else "float32")
    shared = 64 * 1024  # quantization maps and counters
    assert abs(step.figures.state_bytes - card) <= shared + 0.01 * PARAMETERS
    implementation = rules.catalog.optimizer(name).implementations[0]
    item = 2 if precision == "bf16" else 4
    copies = (implementation.scratch_all * PARAMETERS + implementation.scratch_largest * SQUARE * SQUARE) * item
    # Tolerance of one tensor; with bf16 weights, libraries also allocate fp32 temporaries.
    assert abs(step.figures.temporary_bytes - copies) <= 4 * SQUARE * SQUARE * (4 if precision == "bf16" else 1)


def test_estimate_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    result = optadvise("estimate", "--workload", "own_module:squares", "--precision", "fp32", "--gpu", "t4", "--json")
    assert result.code == 0, result.err
    data: dict[str, Any] = json.loads(result.out)
    jsonschema.validate(data, SCHEMA)
    memory = data["memory"]
    assert (memory["basis"], memory["fits"]) == ("measured", True)
    assert memory["weights_bytes"] == memory["gradients_bytes"] == 4 * PARAMETERS
    assert memory["optimizer_bytes"] == pytest.approx(8 * PARAMETERS, rel=1e-3)
    assert sum(line["at_peak_bytes"] for line in memory["ledger"]) == memory["total_bytes"]
    bases = {row["id"]: row["basis"] for row in data["optimizers"]}
    assert set(bases) == set(load().optimizer_ids)
    assert bases["adamw"] == "measured"
    assert {"measured"} <= set(bases.values()) <= {"measured", "card"}


def test_missing_function(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = optadvise("estimate", "--workload", "own_module:circles")
    assert (result.code, result.out, result.error) == (2, "", "invalid-workload")
    assert result.failure is not None
    assert (result.failure.option, result.failure.value) == ("--workload", "own_module:circles")
    assert "squares" in result.err  # the suggestion
    assert len(result.err.splitlines()) == 1
