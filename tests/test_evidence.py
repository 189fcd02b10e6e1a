"""The findings of `docs/evidence.md` can be had again, and the audit that is published is the one that runs here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from optadvise.catalog import load
from optadvise.verify import run
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
FINDINGS = re.findall(r"^## (.+?)\n(?:(?!^## ).*\n)*?```python\n((?:(?!```).*\n)+)```", PAGE, re.MULTILINE)


def test_every_finding_has_its_lines() -> None:
    assert len(FINDINGS) == PAGE.count("\n## ") == PAGE.count("```python")
    assert all(sum(bool(line) for line in lines.splitlines()) < 10 for _, lines in FINDINGS)


@pytest.mark.parametrize(("title", "lines"), FINDINGS, ids=[title.split(":")[1][:30] for title, _ in FINDINGS])
def test_a_finding_can_be_had_again(title: str, lines: str) -> None:
    if "Triton" in title and (find_spec("triton") is None or torch.cuda.is_available()):
        pytest.skip("shows where Triton is and no GPU is")
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-1000:]


def test_the_published_audit_is_what_is_found_here() -> None:
    """Verdicts, not digits: those differ a little between processors."""
    page = (ROOT / "docs" / "measurements" / "audit.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    published = {row[1].strip("`"): row[3].split(":")[0].rstrip(" |") for row in rows}
    catalog = load()
    found = {one["import"]: one["verdict"] for one in run.audited(run.entries(catalog, catalog.optimizer_ids))}
    assert found.keys() == published.keys()
    differ = {name: (published[name], verdict) for name, verdict in found.items()
              if verdict != run.ABSENT and published[name] != verdict}  # fmt: skip
    assert not differ
