"""Everything that can be proven about a set of rules, in one report."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import read_card_facts
from optadvise.core.cards import Step
from optadvise.core.errors import RuleFileError
from optadvise.rule_analysis import describe
from optadvise.rule_analysis.reachability import Chain
from optadvise.rule_analysis.rule_tests import rows
from optadvise.rulebase.cache import digest_of
from optadvise.rulebase.proofs import (
    DOMAIN,
    GAP,
    OVERLAP,
    OVERRIDE,
    SHADOWED,
    UNPROVEN,
    UNREACHABLE,
    Census,
    Finding,
    census,
    conflicts,
    findings,
)
from optadvise.rulebase.regions import Box, Point, TooLargeError, box_of, meet

_PROVERS = (
    "optadvise.rulebase.tables", "optadvise.rulebase.regions", "optadvise.rulebase.proofs",
    "optadvise.rule_analysis.reachability", "optadvise.rule_analysis.check", "optadvise.advice.compiled_rules",
    "optadvise.advice.decide", "optadvise.advice.hyperparameters", "optadvise.advice.schedule_choice",
)  # fmt: skip
_MOST_TOLD = 100
_APART = ("memory_notation",)  # read by `show`, not in the chain


class Told(Struct, frozen=True):
    """A finding with its witness in words."""

    finding: Finding
    where: str | None  # the facts there
    witness: str | None  # a command line that leads there; None where none does


class Report(Struct, frozen=True):
    """What was proven."""

    findings: tuple[Told, ...]
    tables: tuple[Census, ...]
    proven: bool  # False where a question was given up
    more: int = 0  # findings beyond those that are told

    @property
    def sound(self) -> bool:
        """Is nothing wrong, and everything proven?"""
        return self.proven and not self.findings


def check(advisor: CompiledRules, layers: tuple[str, ...] = (), most: int = _MOST_TOLD) -> Report:
    """Prove what can be proven of a compiled set of rules.

    Args:
        advisor: The rules.
        layers: Folders of further rules, for the command lines that lead to what is wrong.
        most: How many findings to tell with their witnesses, which take longer than finding them.
    """
    found: list[Finding] = []
    for table in advisor.tables.values():
        found += findings(table, advisor.axes)
        found += _values(advisor, table.id)
    chain = Chain(advisor)
    try:
        found += _conflicts(advisor, chain)
        found += _unreachable(advisor, chain, {rule for finding in found for rule in finding.rules[:1]})
    except TooLargeError:
        found.append(Finding(UNPROVEN, "", (), "", "whether every row can be reached"))
    found = [finding for finding in found if not _silenced(advisor, finding)]
    return Report(
        tuple(_told(advisor, chain, finding, layers) for finding in found[:most]),
        tuple(census(table, advisor.axes) for table in advisor.tables.values()),
        all(finding.kind != UNPROVEN for finding in found),
        max(len(found) - most, 0),
    )


def require_proof(advisor: CompiledRules) -> CompiledRules:
    """Return an advisor whose rules were proven, now or by an earlier process.

    Args:
        advisor: The rules, with further layers.

    Raises:
        RuleFileError: Something is wrong with them, or could not be proven.
    """

    def make() -> list[Any]:
        report = check(advisor, most=1)
        return [[told.finding.at, told.finding.text, told.where or "", report.more] for told in report.findings]

    # A proof holds for these rules, and by this prover.
    prover = digest_of(*(Path(str(import_module(name).__file__)) for name in _PROVERS))
    wrong = advisor.catalog.figures.get(f"proof of {advisor.catalog.fingerprint} by {prover}", make)
    if wrong:
        at, text, where, others = wrong[0]
        more = f" (and {others} more)" if others else ""
        here = f", where {where}" if where else ""
        raise RuleFileError(f"{text}{here}{more}; optadvise rules check names all, with the same --rules", at)
    return advisor


def _silenced(advisor: CompiledRules, finding: Finding) -> bool:
    """Does a row not win because a later layer wants it so?"""
    if finding.kind not in (UNREACHABLE, SHADOWED):
        return False
    own = next((rule.layer for rule in rows(advisor.tables[finding.table]) if rule.id == finding.rules[0]), None)
    return own != advisor.catalog.layers[-1]


def _unreachable(advisor: CompiledRules, chain: Chain, told: set[str]) -> Iterator[Finding]:
    for table in advisor.tables.values():
        if table.id in _APART:
            continue
        for rule in chain.unreached(table):
            if rule.id not in told:
                text = f"{rule.id} can never be reached: no situation leads to what it asks for"
                yield Finding(UNREACHABLE, table.id, (rule.id,), rule.at, text)


def _conflicts(advisor: CompiledRules, chain: Chain) -> Iterator[Finding]:
    axes = advisor.axes
    for table in advisor.tables.values():
        if table.kind != "adjust":
            continue
        sources: list[tuple[str, str, Box, tuple[Step, ...]]] = []
        for name in advisor.catalog.optimizer_ids:
            optimizer = advisor.catalog.optimizer(name)
            facts = read_card_facts(optimizer, optimizer.implementations[0], axes)
            box = {fact: 1 << axes[fact].cell(value) for fact, value in facts.items()}
            sources.append((name, optimizer.at, box, optimizer.adjust))
        sources += [(rule.id, rule.at, box_of(rule, axes), rule.steps) for rule in table.rules]
        boxes = {source[0]: source[2] for source in sources}
        for finding in conflicts(sources, axes, table.id):
            both = meet(boxes[finding.rules[0]], boxes[finding.rules[1]]) or {}
            if chain.reaching(both) is not None:
                yield finding


def _values(advisor: CompiledRules, table_id: str) -> Iterator[Finding]:
    """Numbers that lie outside the range that is told beside them."""
    table = advisor.tables[table_id]
    if table.kind != "set":
        return
    for rule in (*table.rules, *((table.otherwise,) if table.otherwise else ())):
        number = rule.number
        value, low, high = number.value, number.low, number.high
        outside = isinstance(value, (int, float)) and low is not None and high is not None and not low <= value <= high
        xs = [x for x, _ in number.points]
        if outside:
            text = f"{rule.id} sets {table.gives} to {value:g}, outside {low:g} … {high:g}"
            yield Finding(DOMAIN, table_id, (rule.id,), rule.at, text)
        if xs != sorted(set(xs)) or any(x <= 0 or y <= 0 for x, y in number.points):
            text = f"{rule.id} sets {table.gives} along points that do not rise above zero"
            yield Finding(DOMAIN, table_id, (rule.id,), rule.at, text)


def _told(advisor: CompiledRules, chain: Chain, finding: Finding, layers: tuple[str, ...]) -> Told:
    """Return a finding with its witness in words; none where looking for one takes too long."""
    if finding.point is None:
        return Told(finding, None, None)
    where = describe.place(finding.point, advisor.axes)
    if finding.table in _APART:
        names = advisor.axes["optimizer"].words or ()
        return Told(finding, where, f"optadvise show {names[finding.point['optimizer']]}")
    try:
        point = _reached(chain, finding)
    except TooLargeError:
        return Told(finding, where, None)
    if point is None:
        return Told(finding, where, None)
    shown = {name: point.get(name, cell) for name, cell in finding.point.items()}
    said = describe.answers(advisor, point)
    witness = None if said is None else describe.command(advisor, said, layers)
    return Told(finding, describe.place(shown, advisor.axes), witness)


def _reached(chain: Chain, finding: Finding) -> Point | None:
    """Return a point of the whole chain where a finding shows, None where no situation leads there."""
    table, axes = chain.advisor.tables[finding.table], chain.axes
    boxes = {rule.id: box_of(rule, axes) for rule in table.rules}
    if finding.kind == GAP:
        return chain.reading(table.id, {}, list(boxes.values()))
    if finding.kind == OVERRIDE:
        inner, outer = finding.rules
        return chain.reading(table.id, boxes[inner], [boxes[outer]])
    if finding.kind == OVERLAP:  # anywhere in the meeting that no third row settles
        wanted = {number for number, rule in enumerate(table.rules) if rule.id in finding.rules}
        over = [
            boxes[rule.id]
            for rule, beaten in zip(table.rules, table.beats, strict=True)
            if all(beaten >> number & 1 for number in wanted)
        ]
        first, second = finding.rules
        both = meet(boxes[first], boxes[second])
        return None if both is None else chain.reading(table.id, both, over)
    return chain.reading(table.id, {name: 1 << cell for name, cell in (finding.point or {}).items()})
