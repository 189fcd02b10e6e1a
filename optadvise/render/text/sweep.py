"""Sweep as a table, in text and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from optadvise.benchmark.metrics import metric_value
from optadvise.benchmark.sweep_records import SweepCell, SweepResult
from optadvise.core.markdown import format_table
from optadvise.render.benchmark import format_figure
from optadvise.render.text.console import Page, print_rows

_FIGURES = (("optimizer ms", "optimizer_seconds", 1e3), ("training step ms", "step_seconds", 1e3),
            ("state B/param", "state_bytes_per_parameter", None), ("peak MiB", "peak_memory", 2**-20))  # fmt: skip
_HEADERS = {  # on two lines
    "optimizer ms": "optimizer\nms", "training step ms": "training\nstep ms",
    "state B/param": "state\nB/param", "peak MiB": "peak\nMiB",
}  # fmt: skip
_MAX_INCOMPLETE = 100  # cells of an incomplete sweep that are printed


def print_sweep(result: SweepResult) -> None:
    """Print a sweep; of a large incomplete one only some cells, as printing thousands takes long."""
    cells: Sequence[SweepCell] = result.cells
    if not result.complete and len(cells) > _MAX_INCOMPLETE:
        cells = sorted(cells, key=lambda cell: cell.arm is None)[:_MAX_INCOMPLETE]
    varied = _list_varied(result)
    columns = [("", "fold"), *((name, "left") for name in varied), ("status", "left"),
               *((_HEADERS.get(title, title), "right") for title, *_ in _FIGURES)]  # fmt: skip
    with Page() as out:
        print_rows(out, [[*map(escape, _list_cells(cell, varied))] for cell in cells], *columns)
        for cell in cells:
            reason = cell.why if cell.arm is None else None if cell.arm.status == "ok" else cell.arm.error
            problems = [reason] if cell.arm is None or reason is not None else [each.text for each in cell.warnings]
            options = (f"{name} {value}" for name, value in cell.options.items())
            label = ", ".join([cell.optimizer, *options])
            for problem in problems:
                out.print(escape(f"{label}: {problem}"))
        if len(cells) < len(result.cells):
            measured = sum(cell.arm is not None for cell in result.cells)
            out.print(
                f"\n{measured:,} of {len(result.cells):,} cells have a result; the first {len(cells)} are shown. "
                "--json FILE and --markdown FILE list all."
            )
        if not result.complete:
            out.print("\nIncomplete: run the same command again to resume.")


def render_markdown(result: SweepResult) -> str:
    """Return a Markdown table for a pull request."""
    varied = _list_varied(result)
    headers = ["optimizer", *varied, "status", *(title for title, *_ in _FIGURES)]
    rows = (_list_cells(cell, varied) for cell in result.cells)
    return "\n".join(format_table(headers, rows, numbers_from=2 + len(varied))) + "\n"


def _list_varied(result: SweepResult) -> list[str]:
    """Return the options that vary."""
    return list(result.cells[0].options) if result.cells else []


def _format_metric(value: float | None, scale: float | None) -> str:
    """Return a scaled figure, one with two decimals for a scale of None, or empty text if it was not measured."""
    if value is None:
        return ""
    return f"{value:.2f}" if scale is None else format_figure(value, scale)


def _list_cells(cell: SweepCell, varied: list[str]) -> list[str]:
    arm = cell.arm
    figures = [""] * len(_FIGURES)
    if arm is not None and arm.status == "ok":
        figures = [_format_metric(metric_value(arm, metric), scale) for _, metric, scale in _FIGURES]
    return [
        cell.optimizer,
        *(cell.options[name] for name in varied),
        "no result" if arm is None else arm.status,
        *figures,
    ]
