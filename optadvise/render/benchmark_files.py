"""Benchmark result as CSV, as Markdown and for dashboards."""

from __future__ import annotations

import csv
import io
import unicodedata

from optadvise.benchmark.metrics import METRICS, metric_figure, metric_value, peak_memory
from optadvise.benchmark.records import ArmResult, BenchmarkResult
from optadvise.core.json_text import encode_json
from optadvise.core.markdown import escape_markdown, format_code, format_table
from optadvise.core.units import show_bytes
from optadvise.render.benchmark import format_milliseconds, format_ratio

_COLUMNS = (
    "optimizer", "label", "role", "status", "parameters", "state_bytes", "state_bytes_per_parameter", "peak_memory",
    "step_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds", "first_step_seconds", "throughput",
    "bandwidth_fraction", "loss_last",
)  # fmt: skip
_DASHBOARD = (
    ("optimizer_seconds", "ms", 1e3),
    ("step_seconds", "ms", 1e3),
    ("state_bytes_per_parameter", "B/param", 1.0),
)


def encode_csv(result: BenchmarkResult) -> str:
    """Return CSV with a line per arm; fields that were not measured are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for arm in result.arms:
        values = (metric_value(arm, name) if name in METRICS else getattr(arm, name) for name in _COLUMNS)
        writer.writerow([_escape_cell(value) for value in values])
    return out.getvalue()


def _escape_cell(value: object) -> object:
    """Return a cell of CSV: empty for None, and no text that a spreadsheet would compute as a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = value.replace("\r", " ")  # which the writer does not quote, and which may end a line
    return f"'{text}" if _is_formula(value) else text


def _is_formula(text: str) -> bool:
    """Return whether a text begins like a formula, also after blanks or with a full-width character."""
    start = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return text.startswith(("\t", "\r", "\n")) or start in ("=", "+", "-", "@", "\N{MINUS SIGN}")


def render_markdown(result: BenchmarkResult) -> str:
    """Return a Markdown table for a pull request."""
    headers = (
        "optimizer",
        "optimizer step",
        "vs control",
        "training step",
        "vs control",
        "state B/param",
        "peak",
        "loss",
    )
    lines = format_table(headers, (_list_cells(result, arm) for arm in result.arms), numbers_from=1)
    if result.requirements:
        lines += [
            "",
            *(
                f"- {one.verdict}: {format_code(one.text)} ({escape_markdown(one.label)})"
                for one in result.requirements
            ),
        ]
    if result.warnings:
        lines += ["", *(f"- warning: {escape_markdown(warning.text)}" for warning in result.warnings)]
    return "\n".join(lines) + "\n"


def _list_cells(result: BenchmarkResult, arm: ArmResult) -> list[str]:
    if arm.status != "ok":
        return [arm.label, f"{arm.status}: {arm.error}", *[""] * 6]
    peak, loss, state = peak_memory(arm), arm.loss.last, arm.state_bytes_per_parameter
    times = [
        text for metric in ("optimizer_seconds", "step_seconds")
        for text in (format_milliseconds(metric_value(arm, metric)), _format_ratio(result, arm, metric))
    ]  # fmt: skip
    return [
        arm.label,
        *times,
        "" if state is None else f"{state:.3f}",
        "" if peak is None else show_bytes(peak),
        "" if loss is None else f"{loss:.4g}",
    ]


def _format_ratio(result: BenchmarkResult, arm: ArmResult, metric: str) -> str:
    ratio, interval = format_ratio(result, arm, metric)
    return f"{ratio} ({interval})" if interval else ratio


def encode_dashboard(result: BenchmarkResult) -> str:
    """Return JSON for github-action-benchmark (`customSmallerIsBetter`)."""
    entries = []
    for arm in result.arms:
        for metric, unit, scale in _DASHBOARD if arm.status == "ok" else ():
            figure = metric_figure(arm, metric)
            if figure is not None:
                entry = {"name": f"{arm.label} {metric}", "unit": unit, "value": figure.value * scale}
                if figure.interval is not None:
                    half = (figure.interval.high - figure.interval.low) / 2 * scale
                    entry["range"] = f"± {half:.3g}"
                entries.append(entry)
    return encode_json(entries, indent=2)
