"""A comparison as a table for people, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple
from rich.console import Console
from rich.markup import escape

from optadvise.benchmark.comparison.records import ComparedRatio, Comparison, ComparisonRequirement
from optadvise.core.units import show_bytes
from optadvise.render.text.console import Page, format_heading, make_table

_NAMES = {
    "optimizer_seconds": "step()",
    "step_seconds": "whole step",
    "forward_seconds": "forward",
    "backward_seconds": "backward",
    "state_bytes": "state",
    "state_bytes_per_parameter": "state B/param",
    "peak_memory": "peak memory",
}
_HOW = (
    "vs control: (new / its control) / (base / its control), as the runs were made at different times. The interval "
    "is this ratio's where there is one, and otherwise that of new/base, which also carries the drift between the "
    "runs. Memory is exact."
)


class _Row(Struct, frozen=True):
    """One figure of one arm in both runs, as it is shown."""

    name: str
    base: str
    new: str
    plain: str
    relative: str
    interval: str


def text(comparison: Comparison) -> None:
    """Print a comparison."""
    with Page() as out:
        _sides(out, comparison)
        for label, rows in _rows(comparison):
            out.print(format_heading(escape(label)))
            out.print(_table(rows))
        if any(entry.relative_to_control for entry in comparison.ratios):
            out.print(f"\n{_HOW}")
        elif comparison.ratios:
            out.print("\nThe intervals know nothing of the machine's drift between the two runs. Memory is exact.")
        _requirements(out, comparison)


def _sides(out: Console, comparison: Comparison) -> None:
    for side, compared in (("base", comparison.base), ("new", comparison.new)):
        environment = compared.environment
        versions = [f"{name} {version}" for name, version in environment.packages.items()]
        suffix = "" if compared.complete else "; interrupted"
        about = ", ".join([f"optadvise {environment.optadvise}", *versions]) + suffix
        out.print(f"{side:<5} {escape(compared.name)}: {escape(about)}")
    spec, environment = comparison.new.spec, comparison.new.environment
    name = "step() on given shapes" if spec.optimizer_only else spec.workload
    device = environment.device_name or environment.processor or spec.device
    out.print(escape(f"{name}, {spec.dtype}; {device}"))


def _table(rows: Iterable[_Row]) -> Any:
    columns = [("", 13), ("base", 11), ("new", 11), ("new/base", 8), ("vs control", 10), ("95 % interval", 15)]
    table = make_table(*((title, "right" if title else "left") for title, _ in columns))
    for column, (_, width) in zip(table.columns[1:], columns, strict=True):
        column.min_width = width  # the same in every table, so that they line up
    for row in rows:
        table.add_row("", *(escape(cell) for cell in astuple(row)))
    return table


def _rows(comparison: Comparison) -> Iterable[tuple[str, list[_Row]]]:
    """Return for each arm its figures, one line each: the ratio to control and the plain one side by side."""
    arms: dict[str, dict[str, list[ComparedRatio]]] = {}
    for entry in comparison.ratios:
        arms.setdefault(entry.label, {}).setdefault(entry.metric, []).append(entry)
    for label, metrics in arms.items():
        yield label, [_row(metric, entries) for metric, entries in metrics.items()]


def _row(metric: str, entries: list[ComparedRatio]) -> _Row:
    judged, plain = entries[0], entries[-1]
    name = _NAMES.get(metric, judged.unit)
    relative = _times(judged.ratio) if judged.relative_to_control else ""
    ci = judged.ci95
    interval = "" if ci is None else f"{_digits(ci.low)} … {_digits(ci.high)}"
    show = _SHOW.get(judged.unit, _rate)
    return _Row(name, show(plain.base), show(plain.new), _times(plain.ratio), relative, interval)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{_digits(ratio)}x"


def _digits(ratio: float) -> str:
    if 0.001 <= ratio < 100:
        return f"{ratio:.3f}"
    return f"{ratio:,.0f}" if 100 <= ratio < 10_000 else f"{ratio:.0e}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:,.3f} {unit}"
    return f"{seconds * 1e6:.3f} µs"


def _rate(count: float) -> str:
    return f"{count:,.0f}" if count >= 1000 else f"{count:.4g}"


_SHOW = {"s": _time, "bytes": show_bytes, "bytes/parameter": "{:.3f}".format}


def _requirements(out: Console, comparison: Comparison) -> None:
    if not comparison.requirements:
        return
    out.print(format_heading("Requirements"))
    table = make_table("left", "wrap")
    for found in comparison.requirements:
        table.add_row("", f"[bold]{found.verdict}[/bold]", escape(_judged(found)))
    out.print(table)
    out.print(f"\nVerdict: [bold]{comparison.verdict}[/bold]")


def _judged(found: ComparisonRequirement) -> str:
    measured = "not measured" if found.measured is None else f"{found.measured:.4g}"
    ends = f" ({found.ci95.low:.4g} … {found.ci95.high:.4g})" if found.ci95 else ""
    return f"{found.text}: {found.label} {measured}{ends}"


def as_markdown(comparison: Comparison) -> str:
    """Return a table for a pull request, with what a reader has to know under it."""
    lines = [
        "| optimizer | | base | new | new/base | vs control | 95 % interval |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for label, rows in _rows(comparison):
        lines += ["| " + " | ".join(_cell(cell) for cell in (label, *astuple(row))) + " |" for row in rows]
    if any(entry.relative_to_control for entry in comparison.ratios):
        lines += ["", _HOW]
    if comparison.requirements:
        lines += ["", f"Verdict: **{comparison.verdict}**", ""]
        lines += [f"- {found.verdict}: {_judged(found)}" for found in comparison.requirements]
    if comparison.warnings:
        lines += ["", *(f"- warning: {warning}" for warning in comparison.warnings)]
    return "\n".join(lines) + "\n"


def _cell(words: str) -> str:
    return words.replace("|", "\\|")
