"""Witnesses of findings: a situation with the defect, and a command line that reproduces it."""

from __future__ import annotations

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.rule_analysis.describe import describe_point
from optadvise.rule_analysis.inputs_of_point import find_inputs, format_command
from optadvise.rule_analysis.reachability import UNCHAINED_TABLES, find_read
from optadvise.rulebase.proofs import GAP, OVERLAP, OVERRIDE, Finding
from optadvise.rulebase.regions import Box, Point, TooLargeError, intersect_boxes, make_box
from optadvise.rulebase.tables import Table


class ReportedFinding(Struct, frozen=True):
    """Finding with its witness."""

    finding: Finding
    where: str | None  # description of the situation
    witness: str | None  # command line that reproduces the finding, or None


def report_finding(rules: CompiledRules, finding: Finding, layers: tuple[str, ...]) -> ReportedFinding:
    """Return a finding with its witness, or without one if the search exceeds its step budget.

    Args:
        layers: Folders of rule layers, for the command line.
    """
    if finding.point is None:
        return ReportedFinding(finding=finding, where=None, witness=None)
    where = describe_point(finding.point, rules.axes)
    if finding.table in UNCHAINED_TABLES:
        names = rules.axes["optimizer"].choices or ()
        witness = f"optadvise show {names[finding.point['optimizer']]}"
        return ReportedFinding(finding=finding, where=where, witness=witness)
    try:
        point = _find_point(rules, finding)
    except TooLargeError:
        point = None
    if point is None:
        return ReportedFinding(finding=finding, where=where, witness=None)
    shown = {name: point.get(name, cell) for name, cell in finding.point.items()}
    inputs = find_inputs(rules, point)
    command = None if inputs is None else format_command(rules, inputs, layers)
    return ReportedFinding(finding=finding, where=describe_point(shown, rules.axes), witness=command)


def _find_point(rules: CompiledRules, finding: Finding) -> Point | None:
    """Return a reachable point with the defect; None if no situation reaches it."""
    table = rules.tables[finding.table]
    boxes = {rule.id: make_box(rule, rules.axes) for rule in table.rules}
    if finding.kind == GAP:
        return find_read(rules, table.id, {}, boxes.values())
    if finding.kind == OVERRIDE:
        inner, outer = finding.rules
        return find_read(rules, table.id, boxes[inner], [boxes[outer]])
    if finding.kind == OVERLAP:
        first, second = finding.rules
        overlap = intersect_boxes(boxes[first], boxes[second])
        settled = [boxes[rule] for rule in _list_overriding(table, finding.rules)]
        return None if overlap is None else find_read(rules, table.id, overlap, settled)
    box: Box = {name: 1 << cell for name, cell in (finding.point or {}).items()}
    return find_read(rules, table.id, box)


def _list_overriding(table: Table, overridden: tuple[str, ...]) -> list[str]:
    """Return the ids of the rules that override all of the given rules."""
    numbers = [number for number, rule in enumerate(table.rules) if rule.id in overridden]
    return [
        rule.id
        for rule, beaten in zip(table.rules, table.beats, strict=True)
        if all(beaten >> number & 1 for number in numbers)
    ]
