"""Generated programs on the stand-in for CUDA: they train on the GPU and load their checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from optadvise.rulebase.catalog import Catalog
from tests.cli import optadvise
from tests.cuda_stand_in.session import StandIn
from tests.cuda_stand_in.settings import Gpu

RESUMED = """
import json
import torch
from bitsandbytes.optim import PagedAdamW8bit
from optadvise.benchmark.optimizer_builder import count_state_bytes

weight = torch.nn.Parameter(torch.ones(1000, 1000, device="cuda"))
weight.grad = torch.ones_like(weight)
paged_bytes, state = [], None
for _ in range(2):
    optimizer = PagedAdamW8bit([weight])
    if state is not None:
        optimizer.load_state_dict(state)
    optimizer.step()
    state = optimizer.state_dict()
    paged_bytes.append(count_state_bytes([optimizer], only_paged=True))
print(json.dumps(paged_bytes))
"""
# Appended to a program.
REPORT = """
import json
print(json.dumps({"peak": torch.cuda.max_memory_allocated()}))
"""


@pytest.mark.parametrize("line", ["--optimizer adamw8bit", "--precision amp-fp16", "--optimizer muon"])
def test_program_trains_on_the_gpu_and_loads_its_checkpoint(
    cuda: Callable[..., StandIn], tmp_path: Path, line: str
) -> None:
    stand_in = cuda(Gpu(memory_gib=24), skipped_steps=2)
    answer = optadvise("recommend", "--model", "transformer", *line.split(), "--format", "python")
    assert answer.code == 0, answer.err
    file = tmp_path / "train.py"
    file.write_text(answer.out + REPORT, encoding="utf-8")
    for arguments in ([], ["checkpoint.pt"]):
        process = stand_in.run_program(file, *arguments)
        assert process.returncode == 0, process.stderr
        assert json.loads(process.stdout.splitlines()[-1])["peak"] > 2**16
    assert (tmp_path / "checkpoint.pt").exists()


def test_resumed_run_does_not_page_the_state(catalog: Catalog, cuda: Callable[..., StandIn], tmp_path: Path) -> None:
    file = tmp_path / "resume.py"
    file.write_text(RESUMED, encoding="utf-8")
    process = cuda(Gpu()).run_program(file)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == [2_000_000, 0]
    paged = [card for card in map(catalog.optimizer, catalog.optimizer_ids) if card.paged]
    assert all(any("load_state_dict" in note.text for note in card.notes) for card in paged)
