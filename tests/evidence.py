"""Makes `docs/evidence.md` of a full run, and shows each finding again.

Usage: optadvise verify --all --json full.json; python -m tests.evidence full.json

The lines that show a finding are the files under `tests/findings/`, whose docstrings are the words about them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from optadvise.core.hardware import list_nvidia_gpus
from optadvise.render.text.verify import list_audit_lines, list_claim_lines
from optadvise.verify.records import VerifyResult
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "evidence.md"
INTRODUCTION = """# Evidence

What `optadvise verify --all` found of installed optimizers and of what the guide and the cards claim, and what is wrong
in packages of others. The same command says what is so on yours."""
TIMEOUT = 300.0  # seconds of one finding, most of them its imports


class Finding(NamedTuple):
    """What is wrong in a package of others."""

    name: str
    title: str
    words: str
    lines: str  # that show it: they fail where it is mended


def findings() -> list[Finding]:
    """Return every finding."""
    found = []
    for file in sorted((ROOT / "tests" / "findings").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        title, _, words = (ast.get_docstring(tree) or "").partition("\n")
        end = tree.body[0].end_lineno or 0
        found.append(Finding(file.stem, title, words.strip(), "\n".join(text.splitlines()[end:]).strip()))
    return found


def shown(finding: Finding) -> str | None:
    """Return what is wrong with the lines of a finding, None where they show it."""
    command = [sys.executable, "-m", "tests.program", finding.lines]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    return None if ran.returncode == 0 else ran.stderr.strip().splitlines()[-1]


def page(result: VerifyResult) -> str:
    """Return the page.

    Args:
        result: Of a full run on this machine.
    """
    where = result.environment
    packages = ", ".join(f"{name} {version}" for name, version in where.packages.items() if version)
    gpus = ", ".join(gpu.name for gpu in list_nvidia_gpus()) or "no GPU"
    machine = f"{where.processor}, {where.cores} cores, {gpus}"
    lines = [
        INTRODUCTION, "", f"optadvise {result.optadvise} on {machine}, {result.date}, with {packages}.", "",
        "- [Findings](#findings) in packages of others, each in lines that show it.",
        "- [Claims](#claims), each an experiment with its figure, the interval over its seeds, and its source.",
        "- [Audits](#audits) of every implementation on the cards.", "",
        "## Findings", "",
        "Each block runs by itself. An assertion that fails there says that the finding is mended.",
    ]  # fmt: skip
    for finding in findings():
        wrong = shown(finding)
        here = "" if wrong is None else f"\n\nNot shown on this machine: `{wrong}`"
        lines += [
            "",
            f"### {finding.title}",
            "",
            f"{finding.words}{here}".strip(),
            "",
            "```python",
            finding.lines,
            "```",
        ]
    lines += ["", "## Claims", *_lower(list_claim_lines(result)), "", "## Audits", *_lower(list_audit_lines(result))]
    return "\n".join(lines) + "\n"


def _lower(lines: list[str]) -> list[str]:
    return [f"#{line}" if line.startswith("## ") else line for line in lines]


if __name__ == "__main__":
    PAGE.write_text(page(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=VerifyResult)), encoding="utf-8")
