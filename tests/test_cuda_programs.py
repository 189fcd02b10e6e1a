"""Generated programs on the stand-in for CUDA: they train on the GPU and load their checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import optadvise
from tests.cuda_stand_in.session import StandIn
from tests.cuda_stand_in.settings import Gpu

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
