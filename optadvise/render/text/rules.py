"""Proofs and tests of the rules as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from optadvise.core.errors import shorten_location
from optadvise.render.labels import DASH
from optadvise.render.text.console import Page, format_heading, make_table
from optadvise.rule_analysis.check import ProofReport
from optadvise.rule_analysis.mutants import MutationReport
from optadvise.rule_analysis.rule_tests import RuleTestReport, format_cases
from optadvise.rule_analysis.witnesses import ReportedFinding
from optadvise.rulebase.case_files import Case


def print_proofs(report: ProofReport) -> None:
    """Print the results of the proofs, and every finding."""
    with Page() as out:
        for reported in report.findings:
            _print_finding(out, reported)
        cells = make_table(("table", "left"), ("rows", "right"), ("cells", "right"), ("otherwise", "right"))
        for counts in report.tables:
            through = DASH if counts.otherwise is None else f"{counts.otherwise:,}"
            cells.add_row("", counts.table, str(counts.rows), f"{counts.cells:,}", through)
        out.print(cells)
        _print_support(out, report)
        out.print("\nCells: situations that the table distinguishes; otherwise: those that only the")
        out.print("`otherwise` rule decides.")
        out.print()
        rows, total = sum(table.rows for table in report.tables), len(report.findings) + report.more
        if report.sound:
            out.print(f"[bold]Proven[/bold]: the {rows} rows of {len(report.tables)} tables cover every situation,")
            out.print("no two rows contradict each other, and every row decides some situation.")
        elif report.proven:
            text = (
                f"[bold]{total:,} finding{'s' if total > 1 else ''}[/bold] in {rows} rows; everything else is proven."
            )
            out.print(text + (f" {report.more:,} are not listed." if report.more else ""))
        else:
            out.print("[bold]Not proven[/bold]: a proof exceeded its limit; the results above are partial.")


def _print_support(out: Console, report: ProofReport) -> None:
    """Print how many published runs agree with each choice of an optimizer."""
    table = make_table(("choice of optimizer", "left"), ("published runs", "right"), ("agree", "right"))
    for rule, support in sorted(report.support.items()):
        table.add_row("", rule, f"{support.runs:,}", f"{support.agree:,}")
    if report.support:
        out.print()
        out.print(table)


def _print_finding(out: Console, reported: ReportedFinding) -> None:
    finding = reported.finding
    out.print(f"[bold]{finding.kind}[/bold]  {escape(shorten_location(finding.at))}", soft_wrap=True)
    table = make_table("wrap")
    table.add_row("", escape(finding.text))
    if reported.where:
        table.add_row("", f"[dim]where {escape(reported.where)}[/dim]")
    out.print(table)
    if reported.witness:
        out.print(f"  {escape(reported.witness)}", soft_wrap=True)
    elif finding.point is not None:
        out.print("  [dim]no inputs lead to this situation[/dim]")
    out.print()


def print_tests(report: RuleTestReport, mutants: MutationReport | None, suggested: Sequence[Case]) -> None:
    """Print the results of the tests in rule files."""
    with Page() as out:
        for failure in report.failures:
            out.print(f"[bold]failed[/bold]  {escape(shorten_location(failure.at))}", soft_wrap=True)
            out.print(f"  {escape(failure.text)}", soft_wrap=True)
        for name in report.untested:
            out.print(f"[bold]untested[/bold]  {escape(name)} has no test in which it applies")
        for name in report.silent:
            out.print(f"[bold]silent[/bold]  {escape(name)} applies in no test")
        counts = [f"{report.ran:,} tests", f"{len(report.failures)} failed"]
        counts += [f"{report.overruled} overridden by a later layer"] if report.overruled else []
        out.print(", ".join(counts) if report.ran else "[bold]no tests[/bold]")
        if mutants is not None:
            _print_mutants(out, mutants, suggested)


def _print_mutants(out: Console, report: MutationReport, suggested: Sequence[Case]) -> None:
    for survivor in report.survivors:
        out.print(f"[bold]not detected[/bold]  {escape(survivor.rule)} {escape(survivor.change)}", soft_wrap=True)
    percentage, count = 100 * report.noticed_share, report.killed + len(report.survivors)
    out.print(
        f"{percentage:.1f} % of {count:,} mutants (one changed row each) were detected; "
        f"{report.equivalent} more are equivalent"
    )
    if suggested:
        out.print(format_heading("Cases for rules/cases/ that detect them"))
        for table in sorted({case.table for case in suggested}):
            out.print(f"table: {escape(table)}\ncases:", soft_wrap=True)
            for line in format_cases(case for case in suggested if case.table == table):
                out.print(escape(line), soft_wrap=True)
