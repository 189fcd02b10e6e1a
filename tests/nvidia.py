"""Fake nvidia-smi for tests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

H100 = {
    "index": "0", "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-aaaa-1", "memory.total": "81559", "memory.used": "4",
    "driver_version": "570.86.10", "compute_cap": "9.0", "mig.mode.current": "Disabled",
}  # fmt: skip

# Answers queries from `answers`; a field that no GPU has is unknown to this driver.
_PROGRAM = """\
import json, sys
answers = json.loads({answers!r})
subject = next((word for word in sys.argv if word.startswith("--query-")), None)
if subject is None:
    print(answers["xml" if "-x" in sys.argv else "list"])
    sys.exit()
name, _, fields = subject.partition("=")
rows = answers["gpus" if name == "--query-gpu" else "processes"]
unknown = [field for field in fields.split(",") if answers["gpus"] and not any(field in row for row in rows)]
if unknown and rows:
    print(f'Field "{{unknown[0]}}" is not a valid field to query.')
    sys.exit(2)
for row in rows:
    print(", ".join(str(row.get(field, "[N/A]")) for field in fields.split(",")))
print(answers["error"], end="")
sys.exit(15 if answers["error"] else 0)
"""


def fake_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    gpus: Sequence[Mapping[str, Any]] = (),
    *,
    processes: Sequence[Mapping[str, Any]] = (),
    listing: str = "",
    xml: str = "",
    error: str = "",
) -> None:
    """Install an nvidia-smi that answers queries about GPUs and processes.

    Args:
        gpus: Values by field of each GPU; fields that none has are unknown to the driver.
        processes: Values by field of each process.
        listing: Output of `nvidia-smi -L`.
        xml: Output of `nvidia-smi -q -x`.
        error: Line after the rows of a query, which then fails.
    """
    answers = json.dumps(
        {"gpus": list(gpus), "processes": list(processes), "list": listing, "xml": xml, "error": error}
    )
    program = folder / "smi.py"
    program.write_text(_PROGRAM.format(answers=answers), encoding="utf-8")
    install_program(monkeypatch, folder, "nvidia-smi", f'exec "{sys.executable}" -S -E "{program}" "$@"')


def install_program(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    """Install a shell script as the only program besides those of the system."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")
