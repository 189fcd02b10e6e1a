"""Benchmark result as text."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from optadvise.benchmark.metrics import metric_value, peak_memory
from optadvise.benchmark.records import ArmResult, BenchmarkResult
from optadvise.render import headings
from optadvise.render.benchmark import (
    describe_conditions,
    format_figure,
    format_implementation,
    format_measured,
    format_ratio,
    list_details,
    list_footnotes,
)
from optadvise.render.text.console import Column, Page, format_heading, print_paragraph, print_rows, print_section

_COLUMNS: tuple[Column, ...] = (
    ("", "fold"), ("optimizer\nms", "right"), ("ratio", "right"), ("95 %\ninterval", "left"),
    ("training\nstep ms", "right"), ("ratio", "right"), ("state\nB per\nparam", "right"), ("peak\nMiB", "right"),
)  # fmt: skip


def print_benchmark(result: BenchmarkResult) -> None:
    """Print a benchmark result."""
    with Page() as out:
        for line in describe_conditions(result):
            out.print(escape(line))
        out.print()
        rows = [_list_cells(result, arm) for arm in result.arms]
        print_rows(out, rows, *_COLUMNS)
        for note in list_footnotes(result):
            print_paragraph(out, f"[dim]{note}[/dim]")
        print_rows(out, [("[bold]![/bold]", escape(warning.text)) for warning in result.warnings], "left", "wrap")
        for arm in result.arms:
            out.print(f"{format_heading(escape(arm.label))}  {escape(format_implementation(arm))}", soft_wrap=True)
            print_rows(out, [(escape(line),) for line in list_details(arm, result.spec)], "wrap")
        requirements = (
            (each.verdict, f"{each.text}: {each.label} {format_measured(each)}") for each in result.requirements
        )
        print_requirements(out, requirements, result.verdict)
        if not result.complete:
            out.print("\n[bold]Interrupted[/bold]: the results are partial.")


def _list_cells(result: BenchmarkResult, arm: ArmResult) -> list[str]:
    if arm.status != "ok":
        return [escape(arm.label), f"[bold]{arm.status}[/bold]"]
    state = arm.state_bytes_per_parameter
    return [
        escape(arm.label),
        format_figure(metric_value(arm, "optimizer_seconds"), 1e3),
        *format_ratio(result, arm, "optimizer_seconds"),
        format_figure(metric_value(arm, "step_seconds"), 1e3),
        format_ratio(result, arm, "step_seconds")[0],
        "" if state is None else f"{state:.2f}",
        format_figure(peak_memory(arm), 2**-20),
    ]


def print_requirements(out: Console, requirements: Iterable[tuple[str, str]], verdict: str | None) -> None:
    """Print each requirement with its verdict, then the overall verdict; nothing without requirements."""
    rows = [(f"[bold]{each}[/bold]", escape(text)) for each, text in requirements]
    print_section(out, headings.REQUIREMENTS, rows, "left", "wrap")
    if rows:
        out.print(f"\nVerdict: [bold]{verdict}[/bold]")
