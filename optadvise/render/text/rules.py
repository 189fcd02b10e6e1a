"""What was found about the rules, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict
from rich.markup import escape

from optadvise.core.errors import near
from optadvise.render.text.console import Page, format_heading, make_table
from optadvise.rule_analysis.check import ProofReport
from optadvise.rule_analysis.mutants import MutationReport
from optadvise.rule_analysis.rule_tests import RuleTestReport, format_cases
from optadvise.rule_analysis.witnesses import ReportedFinding
from optadvise.rulebase.case_files import (
    Case,
)


def report(found: ProofReport, *, as_json: bool) -> None:
    """Print what was proven."""
    if as_json:
        _json({"kind": "rules-check", "proven": found.proven, "sound": found.sound,
               "findings": [_finding(told) for told in found.findings], "more_findings": found.more,
               "tables": [asdict(table) for table in found.tables]})  # fmt: skip
        return
    with Page() as out:
        for told in found.findings:
            out.print(f"[bold]{told.finding.kind}[/bold]  {escape(near(told.finding.at))}", soft_wrap=True)
            table = make_table("wrap")
            table.add_row("", escape(told.finding.text))
            if told.where:
                table.add_row("", f"[dim]where {escape(told.where)}[/dim]")
            out.print(table)
            if told.witness:
                out.print(f"  {escape(told.witness)}", soft_wrap=True)
            elif told.finding.point is not None:
                out.print("  [dim]no situation leads there today[/dim]")
            out.print()
        cells = make_table(("table", "left"), ("rows", "right"), ("cells", "right"), ("fall through", "right"))
        for counted in found.tables:
            through = "–" if counted.otherwise is None else f"{counted.otherwise:,}"
            cells.add_row("", counted.table, str(counted.rows), f"{counted.cells:,}", through)
        out.print(cells)
        rows, total = sum(t.rows for t in found.tables), len(found.findings) + found.more
        out.print()
        if found.sound:
            out.print(f"[bold]Proven[/bold]: {rows} rows in {len(found.tables)} tables answer every situation, none")
            out.print("contradicts another, and each can win somewhere.")
        elif found.proven:
            words = f"[bold]{total:,} finding{'s' if total > 1 else ''}[/bold] in {rows} rows; all else is proven."
            out.print(words + (f" {found.more:,} are not told one by one." if found.more else ""))
        else:
            out.print("[bold]Not proven[/bold]: a question was too large; the rest is as above.")


def _finding(told: ReportedFinding) -> dict[str, Any]:
    finding = told.finding
    return {"kind": finding.kind, "table": finding.table, "rules": list(finding.rules), "at": near(finding.at),
            "text": finding.text, "where": told.where, "witness": told.witness}  # fmt: skip


def tested(found: RuleTestReport, hunt: MutationReport | None, suggested: Sequence[Case], *, as_json: bool) -> None:
    """Print how the tests went."""
    if as_json:
        failures = [{**asdict(failure), "at": near(failure.at)} for failure in found.failures]
        data: dict[str, Any] = {
            "kind": "rules-test", "passed": found.passed, "ran": found.ran, "overruled": found.overruled,
            "failures": failures, "untested": list(found.untested), "silent": list(found.silent),
        }  # fmt: skip
        if hunt is not None:
            data["mutants"] = {
                "tried": hunt.tried, "killed": hunt.killed, "alike": hunt.equivalent, "share": hunt.share,
                "survivors": [{"table": s.table, "rule": s.rule, "change": s.change} for s in hunt.survivors],
            }  # fmt: skip
        _json(data)
        return
    with Page() as out:
        for failure in found.failures:
            out.print(f"[bold]failed[/bold]  {escape(near(failure.at))}", soft_wrap=True)
            out.print(f"  {escape(failure.text)}", soft_wrap=True)
        for name in found.untested:
            out.print(f"[bold]untested[/bold]  {escape(name)} has no example in which it fires")
        for name in found.silent:
            out.print(f"[bold]silent[/bold]  {escape(name)} fired in no test")
        words = [f"{found.ran:,} tests", f"{len(found.failures)} failed"]
        words += [f"{found.overruled} overruled by a later layer"] if found.overruled else []
        out.print(", ".join(words) if found.ran else "[bold]no tests[/bold]: there is nothing to rely on")
        if hunt is not None:
            _hunted(out, hunt, suggested)


def _hunted(out: Any, hunt: MutationReport, suggested: Sequence[Case]) -> None:
    for survivor in hunt.survivors:
        out.print(f"[bold]not noticed[/bold]  {escape(survivor.rule)} {escape(survivor.change)}", soft_wrap=True)
    out.print(
        f"{hunt.share:.1%} of {hunt.killed + len(hunt.survivors):,} changes to one row were noticed; "
        f"{hunt.equivalent} more change no answer"
    )
    if suggested:
        out.print(format_heading("Cases that would notice them, for rules/cases/"))
        for table in sorted({case.table for case in suggested}):
            out.print(f"table: {escape(table)}\ncases:", soft_wrap=True)
            for line in format_cases(case for case in suggested if case.table == table):
                out.print(escape(line), soft_wrap=True)


def _json(data: dict[str, Any]) -> None:
    print(json.dumps({"schema_version": 1, **data}, indent=2, ensure_ascii=False))
