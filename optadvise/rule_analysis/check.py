"""Proofs about a complete set of rules, and their report."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import msgspec
from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import read_card_facts
from optadvise.advice.support import count_support
from optadvise.core.advice_records import Support
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError
from optadvise.rule_analysis.reachability import UNCHAINED_TABLES, find_reachable, list_unreachable
from optadvise.rule_analysis.witnesses import ReportedFinding, report_finding
from optadvise.rulebase.cache import digest_contents
from optadvise.rulebase.proofs import (
    CONTRADICTED,
    DOMAIN,
    SHADOWED,
    UNPROVEN,
    UNREACHABLE,
    Adjuster,
    Census,
    Finding,
    check_table,
    count_cells,
    find_conflicts,
    list_adjusters,
)
from optadvise.rulebase.regions import TooLargeError, intersect_boxes
from optadvise.rulebase.table_records import NumberSetting
from optadvise.rulebase.tables import Table

_PROVERS = (
    "optadvise.rulebase.tables", "optadvise.rulebase.regions", "optadvise.rulebase.proofs",
    "optadvise.rule_analysis.table_regions", "optadvise.rule_analysis.reachability",
    "optadvise.rule_analysis.witnesses", "optadvise.rule_analysis.check", "optadvise.advice.compiled_rules",
    "optadvise.advice.decide", "optadvise.advice.hyperparameters", "optadvise.advice.schedule_choice",
)  # fmt: skip
_MIN_RUNS = 4  # published runs that can contradict a rule
_MAX_REPORTED = 100  # findings with a witness; searching for the witness is slow


class ProofReport(Struct, frozen=True):
    """Result of all proofs."""

    findings: tuple[ReportedFinding, ...]
    tables: tuple[Census, ...]
    proven: bool  # False if a proof exceeded its step budget
    more: int = 0  # findings that are not listed
    support: Mapping[str, Support] = {}  # published runs behind each choice of an optimizer, by rule

    @property
    def sound(self) -> bool:
        """Return whether all proofs completed without a finding."""
        return self.proven and not self.findings


class ProofFailure(Struct, frozen=True):
    """First finding about rules that are not proven, as stored in the cache."""

    at: str  # file:line:column
    text: str
    where: str | None
    others: int  # number of other findings


def prove_rules(
    rules: CompiledRules, layers: tuple[str, ...] = (), limit: int = _MAX_REPORTED, *, against_recipes: bool = True
) -> ProofReport:
    """Run all proofs about a set of rules.

    Args:
        layers: Folders of rule layers, for the command lines that reproduce the findings.
        limit: Maximum number of findings to list.
        against_recipes: Count published runs, and report the shipped rules that contradict them.
    """
    unintended = [finding for finding in _collect_findings(rules) if not _is_intended(rules, finding)]
    # Support exists only where one row decides, and a team's layer may contradict publications.
    support = count_support(rules) if against_recipes and not unintended else {}
    if len(rules.catalog.layers) == 1:
        unintended += _find_contradicted(rules, support)
    return ProofReport(
        findings=tuple(report_finding(rules, finding, layers) for finding in unintended[:limit]),
        tables=tuple(count_cells(table, rules.axes) for table in rules.tables.values()),
        proven=all(finding.kind != UNPROVEN for finding in unintended),
        more=max(len(unintended) - limit, 0),
        support=support,
    )


def require_proof(rules: CompiledRules) -> CompiledRules:
    """Return the rules if they are proven, now or in an earlier process.

    Raises:
        RuleFileError: The rules have a defect, or a proof exceeded its step budget.
    """
    # The cache key covers the rules and the code of the proofs.
    prover = digest_contents(*(Path(str(import_module(name).__file__)) for name in _PROVERS))
    key = f"proof of {rules.catalog.fingerprint} by {prover}"
    cached = rules.catalog.figures.get(key, lambda: msgspec.to_builtins(_list_failures(rules)))
    for failure in msgspec.convert(cached, list[ProofFailure]):
        more = f" (and {failure.others} more)" if failure.others else ""
        where = f", where {failure.where}" if failure.where else ""
        message = f"{failure.text}{where}{more}; run optadvise rules check with the same --rules for details"
        raise RuleFileError(message, failure.at, code=ErrorCode.RULES_NOT_PROVEN)
    return rules


def _list_failures(rules: CompiledRules) -> list[ProofFailure]:
    """Return the first finding, or an empty list."""
    report = prove_rules(rules, limit=1, against_recipes=False)  # no reason to reject the rules
    return [
        ProofFailure(at=each.finding.at, text=each.finding.text, where=each.where, others=report.more)
        for each in report.findings
    ]


def _collect_findings(rules: CompiledRules) -> list[Finding]:
    collected: list[Finding] = []
    for table in rules.tables.values():
        collected += check_table(table, rules.axes)
        collected += _check_numbers(table)
    try:
        collected += _find_conflicts(rules)
        collected += _find_unreachable(rules, {finding.rules[0] for finding in collected if finding.rules})
    except TooLargeError:
        text = "not proven: every rule can be reached"
        collected.append(Finding(kind=UNPROVEN, table="", rules=(), at="", text=text))
    return collected


def _is_intended(rules: CompiledRules, finding: Finding) -> bool:
    """Return whether a rule never decides because a later layer replaces it."""
    if finding.kind not in (UNREACHABLE, SHADOWED):
        return False
    table = rules.tables[finding.table]
    layer = next((rule.layer for rule in table.all_rules if rule.id == finding.rules[0]), None)
    return layer != rules.catalog.layers[-1]


def _find_unreachable(rules: CompiledRules, reported: Collection[str]) -> Iterator[Finding]:
    """Yield the rules that no situation reaches, without those already reported."""
    for table in rules.tables.values():
        if table.id in UNCHAINED_TABLES:
            continue
        for rule in list_unreachable(rules, table):
            if rule.id not in reported:
                text = f"{rule.id} cannot be reached: no situation meets its conditions"
                yield Finding(kind=UNREACHABLE, table=table.id, rules=(rule.id,), at=rule.at, text=text)


def _find_contradicted(rules: CompiledRules, support: Mapping[str, Support]) -> Iterator[Finding]:
    """Yield the rules of the last layer whose optimizer most published runs of their situations did not use."""
    table = rules.deciding_tables[1]
    for rule in table.all_rules:
        runs = support.get(rule.id) if rule.layer == rules.catalog.layers[-1] else None
        if runs is not None and runs.runs >= _MIN_RUNS and 2 * runs.agree < runs.runs:
            text = (
                f"{rule.id} chooses {rule.choice.chosen}, which only {runs.agree} of {runs.runs} published runs in "
                "its situations used"
            )
            yield Finding(kind=CONTRADICTED, table=table.id, rules=(rule.id,), at=rule.at, text=text)


def _find_conflicts(rules: CompiledRules) -> Iterator[Finding]:
    """Yield conflicts between adjustments of cards and rules that a situation can reach."""
    axes = rules.axes
    for table in rules.tables.values():
        if table.kind != "adjust":
            continue
        adjusters = [*_list_adjusting_cards(rules), *list_adjusters(table, axes)]
        boxes = {adjuster.id: adjuster.box for adjuster in adjusters}
        for finding in find_conflicts(adjusters, axes, table.id):
            first, second = finding.rules
            if find_reachable(rules, intersect_boxes(boxes[first], boxes[second]) or {}) is not None:
                yield finding


def _list_adjusting_cards(rules: CompiledRules) -> Iterator[Adjuster]:
    for name in rules.catalog.optimizer_ids:
        card = rules.catalog.optimizer(name)
        facts = read_card_facts(card, card.implementations[0], rules.axes)
        box = {fact: 1 << rules.axes[fact].cell(value) for fact, value in facts.items()}
        yield Adjuster(id=name, at=card.at, box=box, steps=card.adjust)


def _check_numbers(table: Table) -> Iterator[Finding]:
    """Yield values outside their range, and points that are not in ascending order."""
    if table.kind != "set":
        return
    for rule in table.all_rules:
        for problem in _describe_problems(rule.number):
            text = f"{rule.id} sets {table.output} {problem}"
            yield Finding(kind=DOMAIN, table=table.id, rules=(rule.id,), at=rule.at, text=text)


def _describe_problems(number: NumberSetting) -> Iterator[str]:
    value, low, high = number.value, number.low, number.high
    if isinstance(value, (int, float)) and low is not None and high is not None and not low <= value <= high:
        yield f"to {value:g}, outside its range {low:g} to {high:g}"
    xs = [x for x, _ in number.points]
    if xs != sorted(set(xs)) or any(x <= 0 or y <= 0 for x, y in number.points):
        yield "along points that are not positive and ascending"
