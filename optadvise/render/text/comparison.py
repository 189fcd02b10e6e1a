"""Comparison of two benchmark results as text, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from optadvise.benchmark.comparison.records import ComparedRatio, Comparison, ComparisonRequirement
from optadvise.core.markdown import escape_markdown, format_table
from optadvise.core.units import show_bytes, show_number
from optadvise.render.benchmark import describe_workload, format_measured
from optadvise.render.text.benchmark import print_requirements
from optadvise.render.text.console import Page, format_heading, make_table

_NAMES = {
    "optimizer_seconds": "optimizer step",
    "step_seconds": "training step",
    "forward_seconds": "forward",
    "backward_seconds": "backward",
    "state_bytes": "state",
    "state_bytes_per_parameter": "state B/param",
    "peak_memory": "peak memory",
}
_HEADERS = ("", "base", "new", "new/base", "vs control", "95 % interval")
_WIDTHS = (14, 11, 11, 8, 10, 14)  # equal in all tables, so that columns are aligned
_METHOD = (
    "vs control: (new / its control) / (base / its control), which cancels drift between the runs. The interval is "
    "that of this ratio if it was computed, otherwise that of new/base, which includes the drift. Memory is exact."
)


def print_comparison(comparison: Comparison) -> None:
    """Print a comparison."""
    with Page() as out:
        _print_results(out, comparison)
        for label, rows in _list_arms(comparison):
            table = make_table(*((header, "right" if header else "left") for header in _HEADERS))
            for column, width in zip(table.columns[1:], _WIDTHS, strict=True):
                column.min_width = width
            for row in rows:
                table.add_row("", *map(escape, row))
            out.print(format_heading(escape(label)))
            out.print(table)
        if any(ratio.relative_to_control for ratio in comparison.ratios):
            out.print(f"\n{_METHOD}")
        elif comparison.ratios:
            out.print("\nThe intervals do not include drift of the machine between the two runs. Memory is exact.")
        requirements = ((each.verdict, _describe_requirement(each)) for each in comparison.requirements)
        print_requirements(out, requirements, comparison.verdict)


def _print_results(out: Console, comparison: Comparison) -> None:
    for role, result in (("base", comparison.base), ("new", comparison.new)):
        versions = [f"{name} {version}" for name, version in result.environment.packages.items()]
        software = ", ".join([f"optadvise {result.environment.optadvise}", *versions])
        interrupted = "" if result.complete else "; interrupted"
        out.print(f"{role:<5} {escape(result.name)}: {escape(software + interrupted)}")
    spec, environment = comparison.new.spec, comparison.new.environment
    device = environment.device_name or environment.processor or spec.device
    out.print(escape(f"{describe_workload(spec)}, {spec.dtype}; {device}"))


def _list_arms(comparison: Comparison) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each arm with the cells of its metrics: new/base and the ratio relative to the control."""
    arms: dict[str, dict[str, list[ComparedRatio]]] = {}
    for ratio in comparison.ratios:
        arms.setdefault(ratio.label, {}).setdefault(ratio.metric, []).append(ratio)
    for label, metrics in arms.items():
        yield label, [_list_cells(metric, ratios) for metric, ratios in metrics.items()]


def _list_cells(metric: str, ratios: list[ComparedRatio]) -> list[str]:
    """Return the cells of a metric; its first ratio is judged, its last one is new/base."""
    judged, plain = ratios[0], ratios[-1]
    return [
        _NAMES.get(metric, judged.unit),
        _format_value(plain.base, judged.unit),
        _format_value(plain.new, judged.unit),
        _format_ratio(plain.ratio),
        _format_ratio(judged.ratio) if judged.relative_to_control else "",
        "" if judged.ci95 is None else f"{_format_digits(judged.ci95.low)} to {_format_digits(judged.ci95.high)}",
    ]


def _format_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{_format_digits(ratio)}x"


def _format_digits(ratio: float) -> str:
    if 0.001 <= ratio < 100:
        return f"{ratio:.3f}"
    return f"{ratio:,.0f}" if 100 <= ratio < 10_000 else show_number(float(f"{ratio:.0e}"))


def _format_value(value: float, unit: str) -> str:
    if unit == "s":
        scale, name = next(
            ((scale, name) for scale, name in ((1.0, "s"), (1e-3, "ms")) if value >= scale), (1e-6, "µs")
        )
        return f"{value / scale:,.3f} {name}"
    if unit == "bytes":
        return show_bytes(value)
    if unit == "bytes/parameter":
        return f"{value:.3f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _describe_requirement(requirement: ComparisonRequirement) -> str:
    return f"{requirement.text}: {requirement.label} {format_measured(requirement)}"


def render_markdown(comparison: Comparison) -> str:
    """Return a Markdown table for a pull request, with the method and the warnings below it."""
    rows = [(label, *row) for label, metrics in _list_arms(comparison) for row in metrics]
    lines = format_table(("optimizer", *_HEADERS), rows, numbers_from=2)
    if any(ratio.relative_to_control for ratio in comparison.ratios):
        lines += ["", _METHOD]
    if comparison.requirements:
        lines += ["", f"Verdict: **{comparison.verdict}**", ""]
        lines += [
            f"- {each.verdict}: {escape_markdown(_describe_requirement(each))}" for each in comparison.requirements
        ]
    if comparison.warnings:
        lines += ["", *(f"- warning: {escape_markdown(warning)}" for warning in comparison.warnings)]
    return "\n".join(lines) + "\n"
