"""`estimate --from`: the user's own module under fake tensors, and the cards held against what fake tensors show."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from optadvise.advice.alternatives import count_state_bytes
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.fake_tensors.client import trace_step
from optadvise.fake_tensors.estimate import request_optimizers
from optadvise.fake_tensors.records import TracedStep
from optadvise.rulebase.catalog import load
from tests.cli import optadvise
from tests.test_estimate import SCHEMA

pytest.importorskip("torch", reason="fake tensors are torch's")

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
    found = tmp_path_factory.mktemp("own")
    (found / "own_module.py").write_text(MODULE, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def steps(folder: Path) -> dict[str, TracedStep]:
    rules = CompiledRules(load())
    asked = list(request_optimizers(rules, rules.catalog.optimizer_ids, fused=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {
            precision: trace_step("own_module:squares", precision, asked, timeout=300) for precision in ("fp32", "bf16")
        }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", load().optimizer_ids)
def test_cards_keep_and_copy_what_the_implementation_does(
    steps: dict[str, TracedStep], name: str, precision: str
) -> None:
    rules = CompiledRules(load())
    step = next(entry for entry in steps[precision].optimizers if entry.id == name)
    if step.figures is None:
        pytest.skip(f"fake tensors cannot step it: {step.reason}")
    card = count_state_bytes(rules, name, "bfloat16" if precision == "bf16" else "float32")
    shared = 64 * 1024  # quantisation maps and counters
    assert abs(step.figures.state_bytes - card * PARAMETERS) <= shared + 0.01 * PARAMETERS
    made = rules.catalog.optimizer(name).implementations[0]
    item = 2 if precision == "bf16" else 4
    copies = (made.scratch_all * PARAMETERS + made.scratch_largest * SQUARE * SQUARE) * item
    # Within a copy of one tensor: what libraries compute in 32 bits beside 16-bit weights is that much more.
    assert abs(step.figures.temporary_bytes - copies) <= 4 * SQUARE * SQUARE * (4 if precision == "bf16" else 1)


def test_the_answer_is_measured_and_the_rest_is_by_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    said = optadvise("estimate", "--from", "own_module:squares", "--precision", "fp32", "--gpu", "t4", "--json")
    assert said.code == 0, said.err
    data: dict[str, Any] = json.loads(said.out)
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


def test_a_function_at_fault_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = optadvise("estimate", "--from", "own_module:circles")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("optadvise: --from 'own_module:circles': ")
    assert "squares" in said.err
    assert len(said.err.splitlines()) == 1
