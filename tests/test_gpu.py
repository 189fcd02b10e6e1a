"""Tests that require a CUDA device; run them with `pytest -m gpu`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli import optadvise

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a CUDA device"),
]


def bench(file: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    result = optadvise("bench", *arguments, "--device", "cuda", "--json", str(file))
    assert result.code == 0, result.err
    document = json.loads(file.read_text(encoding="utf-8"))
    return {arm["label"]: arm for arm in document["arms"]}


def test_every_kind_of_memory_is_reported(tmp_path: Path) -> None:
    arms = bench(tmp_path / "r.json", "adamw8bit", "paged-adamw8bit", "--rounds", "3", "--steps", "5")
    for arm in arms.values():
        assert arm["status"] == "ok", arm["error"]
        assert 0 < arm["peak_memory_bytes"]["allocated"] <= arm["peak_memory_bytes"]["reserved"]
        assert arm["transient_bytes"] is not None
        assert arm["loss"]["finite"]


def test_8bit_state_is_a_quarter_of_fp32_state(tmp_path: Path) -> None:
    line = "adamw8bit lion stable-adamw adan --optimizer-only --params 100M --rounds 5 --steps 10"
    arms = bench(tmp_path / "r.json", *line.split())
    control = next(arm for arm in arms.values() if arm["role"] == "control")
    assert control["implementation"]["variant"] == "fused"
    assert arms["adamw8bit"]["state_bytes"] < 0.26 * control["state_bytes"]
    assert control["bandwidth"]["fraction"] > 0.5


def test_out_of_memory_is_reported_in_the_result(tmp_path: Path) -> None:
    line = ["adamw", "--optimizer-only", "--params", "200B", "--rounds", "1", "--steps", "1", "--control", "none"]
    result = optadvise("bench", *line, "--device", "cuda", "--json", str(tmp_path / "r.json"))
    assert result.code == 4
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["arms"][0]["status"] == "oom"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="requires two CUDA devices")
@pytest.mark.parametrize(("shard", "times"), [("none", 2), ("zero1", 1), ("fsdp", 1)])
def test_two_nccl_ranks_have_the_state_of_their_sharding(shard: str, times: int, tmp_path: Path) -> None:
    line = f"adamw --control none --nproc 2 --shard {shard} --rounds 2 --steps 2"
    (arm,) = bench(tmp_path / "r.json", *line.split()).values()
    assert arm["status"] == "ok", arm["error"]
    assert arm["total_state_bytes"] == pytest.approx(8 * times * arm["parameters"], rel=0.01)
    assert 0 < arm["communication_share"] < 1
