"""JSON records of `rules check`, `rules test` and `show` of a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import asdict, replace

from optadvise.core.advice_records import Support
from optadvise.core.cards import Range
from optadvise.core.errors import shorten_location
from optadvise.core.findings import REFUTED, ClaimFinding
from optadvise.core.json_text import Document, JsonObject
from optadvise.evidence.apply import describe_refutation
from optadvise.rule_analysis.check import ProofReport
from optadvise.rule_analysis.mutants import MutationReport
from optadvise.rule_analysis.rule_tests import Failure, RuleTestReport
from optadvise.rule_analysis.witnesses import ReportedFinding
from optadvise.rulebase.proofs import Census
from optadvise.rulebase.table_records import Example, Rule, WarningText


class FindingDocument(Struct, frozen=True, kw_only=True):
    """An error in the rules."""

    kind: str
    table: str
    rules: tuple[str, ...]  # the ids of the offending rows
    at: str  # file:line:column
    text: str
    where: str | None  # facts of a situation with this error
    witness: str | None  # command line for this situation


class RulesCheckDocument(Document, frozen=True, kw_only=True):
    """`optadvise rules check --json`: results of the proofs."""

    kind: Literal["rules-check"] = "rules-check"
    proven: bool
    sound: bool
    findings: tuple[FindingDocument, ...]
    more_findings: int
    tables: tuple[Census, ...]
    support: Mapping[str, Support]  # published runs behind each choice of an optimizer, by rule


class SurvivorDocument(Struct, frozen=True):
    """A change of one row that no test detected."""

    table: str
    rule: str
    change: str


class MutantsDocument(Struct, frozen=True, kw_only=True):
    """Results of mutation testing."""

    tried: int
    killed: int
    alike: int  # equivalent to the original in every situation
    noticed_share: float = field(name="share")  # of the mutants that are not equivalent
    survivors: tuple[SurvivorDocument, ...]


class RulesTestDocument(Document, frozen=True, kw_only=True):
    """`optadvise rules test --json`: results of the tests in rule files."""

    kind: Literal["rules-test"] = "rules-test"
    passed: bool
    ran: int
    overruled: int
    failures: tuple[Failure, ...]
    untested: tuple[str, ...]
    silent: tuple[str, ...]
    mutants: MutantsDocument | UnsetType = UNSET


class RuleDocument(Document, frozen=True, kw_only=True):
    """`optadvise show --json` of a rule: the keys of its file, its position, and its claims tested on this machine."""

    kind: Literal["rule"] = "rule"
    table: str
    layer: str
    at: str
    id: str
    name: str
    when: Mapping[str, tuple[str | Range, ...]]
    then: JsonObject  # fields depend on the table
    because: str | UnsetType  # unset if the outcome is a text that contains the reason
    cite: tuple[str, ...]
    tests: tuple[Example, ...]
    overrides: tuple[str, ...]
    before: str | None
    claims: tuple[ClaimFinding, ...]  # supporting the rule, decided on this machine
    support: Support | None = None  # published runs, for a rule that chooses an optimizer


def build_check(report: ProofReport) -> RulesCheckDocument:
    """Return the JSON of proofs."""
    return RulesCheckDocument(
        proven=report.proven,
        sound=report.sound,
        findings=tuple(_build_finding(finding) for finding in report.findings),
        more_findings=report.more,
        tables=report.tables,
        support=report.support,
    )


def _build_finding(reported: ReportedFinding) -> FindingDocument:
    finding = reported.finding
    return FindingDocument(
        kind=finding.kind, table=finding.table, rules=finding.rules, at=shorten_location(finding.at), text=finding.text,
        where=reported.where, witness=reported.witness,
    )  # fmt: skip


def build_test(report: RuleTestReport, mutants: MutationReport | None) -> RulesTestDocument:
    """Return the JSON of test results, with those of mutation testing if it ran."""
    return RulesTestDocument(
        passed=report.passed,
        ran=report.ran,
        overruled=report.overruled,
        failures=tuple(replace(failure, at=shorten_location(failure.at)) for failure in report.failures),
        untested=report.untested,
        silent=report.silent,
        mutants=UNSET if mutants is None else _build_mutants(mutants),
    )


def _build_mutants(report: MutationReport) -> MutantsDocument:
    return MutantsDocument(
        tried=report.tried, killed=report.killed, alike=report.equivalent, noticed_share=report.noticed_share,
        survivors=tuple(
            SurvivorDocument(table=each.table, rule=each.rule, change=each.change) for each in report.survivors
        ),
    )  # fmt: skip


def build_rule(rule: Rule, claims: Sequence[ClaimFinding], support: Support | None) -> RuleDocument:
    """Return a rule's JSON.

    Args:
        claims: Claims that support the rule and were decided on this machine.
        support: Published runs behind it; None if there are none.
    """
    reason = find_reason(rule, claims)
    changed = {"then": rule.outcome, "because": UNSET if reason is None else reason}
    return RuleDocument(**{**asdict(rule), **changed, "claims": (*claims,), "support": support})


def find_reason(rule: Rule, claims: Sequence[ClaimFinding]) -> str | None:
    """Return the reason of a rule, or the measurement that refuted it here; None if its outcome has the reason."""
    if isinstance(rule.then, WarningText):
        return None
    refuted = next((claim for claim in claims if claim.verdict == REFUTED), None)
    return rule.because if refuted is None else describe_refutation(refuted)
