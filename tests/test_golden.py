"""Text output of commands, compared with golden files.

To update them after an intended change, run OPTADVISE_UPDATE_GOLDEN=1 pytest tests/test_golden.py.
"""

from __future__ import annotations

import os

import pytest

from tests.cli import optadvise
from tests.conftest import ROOT

LINES = {
    "recommend-24gb": "recommend --model transformer --vram 24GB",
    "recommend-cnn-tuned": "recommend --model cnn --tuning high --batch-size 1024",
    "recommend-8b-finetune": "recommend --model transformer --params 8B --vram 24GB --task finetune",
    "recommend-qlora-explain": "recommend --model transformer --params 65B --vram 48GB --method qlora --explain",
    "recommend-muon-python": "recommend --model transformer --optimizer muon --format python",
    "recommend-nothing": "recommend",
    "estimate-7b-4090": "estimate --params 7B --gpu rtx4090 --task finetune",
    "estimate-resnet": "estimate --arch resnet50 --image-size 224 --batch-size 256",
    "estimate-70b-all": "estimate --params 70B --gpus 8 --gpu h100 --all",
    "list": "list",
    "list-tree": "list --tree",
    "list-schedules": "list --schedules",
    "show-adamw8bit": "show adamw8bit",
    "show-rule": "show OPT040",
    "show-schedule": "show warmup-cosine",
    "help": "recommend --help",
}


@pytest.mark.parametrize("name", LINES)
def test_text_equals_golden_file(name: str) -> None:
    result = optadvise(*LINES[name].split())
    assert result.code == 0, result.err
    text = "".join(line for line in result.out.splitlines(keepends=True) if "(rules " not in line)
    file = ROOT / "tests" / "golden" / f"{name}.txt"
    if os.environ.get("OPTADVISE_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    if "python" not in name:
        assert all(len(line) <= 80 or "://" in line for line in text.splitlines())  # an address is not broken
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())
