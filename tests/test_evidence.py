"""`docs/evidence.md`: its findings can be had again, and its verdicts are those that are found here."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
import torch

from optadvise.core.findings import ABSENT
from optadvise.rulebase.catalog import load
from optadvise.verify import audit_run, claims
from tests.evidence import PAGE, Finding, findings, shown

TEXT = PAGE.read_text(encoding="utf-8")
# Claims that are tested in a second or so; the others are trainings, which a full run makes (`slow`).
QUICK = ("state-ratio", "state-buffers", "path-distance", "first-step-ratio", "decay-evenness", "goal-steps-ratio")


def published(section: str) -> list[list[str]]:
    """Return the rows of a section's tables, and the heading that each stands under last."""
    rows, heading = [], ""
    for line in re.split(r"^## ", TEXT, flags=re.MULTILINE)[section_number(section)].splitlines():
        heading = line.removeprefix("### ") if line.startswith("### ") else heading
        if line.startswith("| ") and not line.startswith(("| claim |", "| optimizer |")):
            rows.append([*re.split(r" (?<!\\)\| ", line.strip("| ")), heading])
    return rows


def section_number(name: str) -> int:
    return [part.split("\n")[0] for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)].index(name)


def test_every_finding_is_on_the_page_in_its_few_lines() -> None:
    for finding in findings():
        assert f"### {finding.title}\n" in TEXT
        assert f"```python\n{finding.lines}\n```" in TEXT
        assert sum(bool(line) for line in finding.lines.splitlines()) < 10, finding.name
    assert TEXT.count("```python") == len(findings())


@pytest.mark.parametrize("finding", findings(), ids=lambda finding: finding.name)
def test_a_finding_can_be_had_again(finding: Finding) -> None:
    if "Triton" in finding.title and (find_spec("triton") is None or torch.cuda.is_available()):
        pytest.skip("shows where Triton is and no GPU is")
    assert shown(finding) is None


@pytest.mark.slow
def test_the_published_audits_are_what_is_found_here() -> None:
    """Verdicts, not digits: those differ a little between processors."""
    rows = {row[1].strip("`"): row[3].split(":")[0] for row in published("Audits")}
    catalog = load()
    entries = audit_run.list_entries(catalog, catalog.optimizer_ids)
    verdicts = {result.path: result.verdict for result in audit_run.run_audits(entries)}
    assert verdicts.keys() == rows.keys()
    differ = {name: (rows[name], verdict) for name, verdict in verdicts.items()
              if verdict != ABSENT and rows[name] != verdict}  # fmt: skip
    assert not differ


def agree(quick: bool) -> None:
    catalog = load()
    rows = {re.findall(r"`([\w-]+)`, from", row[3])[-1]: row[-1].lower() for row in published("Claims")}
    assert rows.keys() == catalog.claims.keys()
    chosen = [claim for claim in catalog.claims.values() if (claim.experiment in QUICK) is quick]
    # Trainings need all of a claim's minute where nothing else runs; a verdict is not about the machine's speed.
    tested = claims.evaluate_claims(catalog, chosen, timeout=600)
    outcomes = {outcome.id: outcome for outcome in tested}
    here = [name for name, each in outcomes.items() if each.figures]  # what needs a GPU or a package is undecided
    assert len(here) > len(outcomes) / 2
    differ = {name: (rows[name], outcomes[name].verdict) for name in here if rows[name] != outcomes[name].verdict}
    assert not differ


def test_the_published_claims_of_state_and_steps_are_what_is_found_here() -> None:
    agree(quick=True)


@pytest.mark.slow
def test_the_published_claims_of_trainings_are_what_is_found_here() -> None:
    agree(quick=False)
