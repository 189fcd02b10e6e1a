"""Write `docs/evidence.md` from a full run, and reproduce each finding.

Usage: optadvise verify --all --json full.json; python -m tests.evidence full.json

A finding is a file under `tests/findings/`: its docstring describes a bug, its code reproduces it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from optadvise.core.nvidia import list_nvidia_gpus
from optadvise.render.text.verify import list_audit_lines, list_claim_lines
from optadvise.verify.records import VerifyResult
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "evidence.md"
INTRODUCTION = """# Evidence

Results of `optadvise verify --all`: audits of installed optimizers, tests of the claims of the guide and the cards, and
bugs in other packages. Run the same command for results on your machine."""
TIMEOUT = 300.0  # seconds per finding, mostly for imports


class Finding(NamedTuple):
    """A bug in another package."""

    name: str
    title: str
    description: str
    code: str  # reproduces the bug; fails once it is fixed


def list_findings() -> list[Finding]:
    """Return every finding."""
    findings = []
    for file in sorted((ROOT / "tests" / "findings").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        title, _, description = (ast.get_docstring(tree) or "").partition("\n")
        end = tree.body[0].end_lineno or 0
        findings.append(Finding(file.stem, title, description.strip(), "\n".join(text.splitlines()[end:]).strip()))
    return findings


def reproduce(finding: Finding) -> str | None:
    """Return the last line of the error of a finding's code; None if it reproduces the bug."""
    command = [sys.executable, "-m", "tests.program", finding.code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    return None if process.returncode == 0 else process.stderr.strip().splitlines()[-1]


def format_page(result: VerifyResult) -> str:
    """Return the page.

    Args:
        result: Result of a full run on this machine.
    """
    environment = result.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items() if version)
    gpus = ", ".join(gpu.name for gpu in list_nvidia_gpus()) or "no GPU"
    machine = f"{environment.processor}, {environment.cores} cores, {gpus}"
    lines = [
        INTRODUCTION, "", f"optadvise {result.optadvise} on {machine}, {result.date}, with {packages}.", "",
        "- [Findings](#findings): bugs in other packages, each with a reproduction.",
        "- [Claims](#claims): experiments with the measured figure, its interval over seeds, and the source.",
        "- [Audits](#audits): every implementation on the cards, compared with a float64 reference.", "",
        "## Findings", "",
        "Each block is a complete program. A failing assertion means that the bug is fixed.",
    ]  # fmt: skip
    for finding in list_findings():
        error = reproduce(finding)
        note = "" if error is None else f"\n\nNot reproduced on this machine: `{error}`"
        lines += [
            "",
            f"### {finding.title}",
            "",
            f"{finding.description}{note}".strip(),
            "",
            "```python",
            finding.code,
            "```",
        ]
    lines += ["", "## Claims", *_nest(list_claim_lines(result)), "", "## Audits", *_nest(list_audit_lines(result))]
    return "\n".join(lines) + "\n"


def _nest(lines: list[str]) -> list[str]:
    """Return lines with headings of the third level instead of the second."""
    return [f"#{line}" if line.startswith("## ") else line for line in lines]


if __name__ == "__main__":
    PAGE.write_text(
        format_page(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=VerifyResult)), encoding="utf-8"
    )
