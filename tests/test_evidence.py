"""`docs/evidence.md`: its findings are reproducible, and its verdicts agree with those on this machine."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
import torch

from optadvise.core.findings import ABSENT
from optadvise.rulebase.catalog import load
from optadvise.verify import audit_run, claims
from tests.evidence import PAGE, Finding, list_findings, reproduce

TEXT = PAGE.read_text(encoding="utf-8")
# Experiments of about a second; the others are trainings, which only a full run does (`slow`).
QUICK = ("state-ratio", "state-buffers", "path-distance", "first-step-ratio", "decay-evenness", "goal-steps-ratio")


def list_published_rows(section: str) -> list[list[str]]:
    """Return the rows of a section's tables, each with its heading as the last cell."""
    rows, heading = [], ""
    for line in re.split(r"^## ", TEXT, flags=re.MULTILINE)[section_number(section)].splitlines():
        heading = line.removeprefix("### ") if line.startswith("### ") else heading
        if line.startswith("| ") and not line.startswith(("| claim |", "| optimizer |")):
            rows.append([*re.split(r" (?<!\\)\| ", line.strip("| ")), heading])
    return rows


def section_number(name: str) -> int:
    return [part.split("\n")[0] for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)].index(name)


def test_every_finding_is_on_the_page_with_few_lines_of_code() -> None:
    for finding in list_findings():
        assert f"### {finding.title}\n" in TEXT
        assert f"```python\n{finding.code}\n```" in TEXT
        assert sum(bool(line) for line in finding.code.splitlines()) < 10, finding.name
    assert TEXT.count("```python") == len(list_findings())


@pytest.mark.parametrize("finding", list_findings(), ids=lambda finding: finding.name)
def test_a_finding_is_reproduced(finding: Finding) -> None:
    if "Triton" in finding.title and (find_spec("triton") is None or torch.cuda.is_available()):
        pytest.skip("requires Triton and no GPU")
    assert reproduce(finding) is None


@pytest.mark.slow
def test_the_published_audits_agree_with_this_machine() -> None:
    """Compare verdicts only, because digits differ slightly between processors."""
    rows = {row[1].strip("`"): row[3].split(":")[0] for row in list_published_rows("Audits")}
    catalog = load()
    entries = audit_run.list_entries(catalog, catalog.optimizer_ids)
    verdicts = {result.path: result.verdict for result in audit_run.run_audits(entries)}
    assert verdicts.keys() == rows.keys()
    differ = {name: (rows[name], verdict) for name, verdict in verdicts.items()
              if verdict != ABSENT and rows[name] != verdict}  # fmt: skip
    assert not differ


def check_published_claims(quick: bool) -> None:
    """Test the quick claims, or the others, and compare the verdicts with the published ones."""
    catalog = load()
    rows = {re.findall(r"`([\w-]+)`, from", row[3])[-1]: row[-1].lower() for row in list_published_rows("Claims")}
    assert rows.keys() == catalog.claims.keys()
    chosen = [claim for claim in catalog.claims.values() if (claim.experiment in QUICK) is quick]
    # Trainings take a claim's whole minute on an idle machine; the verdict must not depend on the machine's speed.
    tested = claims.evaluate_claims(catalog, chosen, timeout=600)
    outcomes = {outcome.id: outcome for outcome in tested}
    measured = [name for name, each in outcomes.items() if each.figures]  # the others require a GPU or a package
    assert len(measured) > len(outcomes) / 2
    differ = {name: (rows[name], outcomes[name].verdict) for name in measured if rows[name] != outcomes[name].verdict}
    assert not differ


def test_the_published_claims_of_state_and_steps_agree_with_this_machine() -> None:
    check_published_claims(quick=True)


@pytest.mark.slow
def test_the_published_claims_of_trainings_agree_with_this_machine() -> None:
    check_published_claims(quick=False)
