"""A sweep as one table, as Markdown and as JSON."""

from __future__ import annotations

from rich.markup import escape

from optadvise.benchmark.metrics import metric_value
from optadvise.benchmark.sweep_records import SweepCell, SweepResult
from optadvise.core.json_text import encode_json
from optadvise.render.text.benchmark import figure
from optadvise.render.text.console import Page, make_table

_FIGURES = (("step() ms", "optimizer_seconds", 1e3), ("whole ms", "step_seconds", 1e3),
            ("B/param", "state_bytes_per_parameter", 1.0), ("peak MiB", "peak_memory", 2**-20))  # fmt: skip

_STATE = 2  # which of them is the state, told to two places as everywhere


def as_json(result: SweepResult) -> str:
    """Return a sweep as one JSON object."""
    return encode_json(result)


def text(result: SweepResult) -> None:
    """Print a sweep."""
    varied = _varied(result)
    with Page() as out:
        table = make_table(
            ("", "fold"), *((name, "left") for name in varied), *((name, "right") for name, _, _ in _FIGURES)
        )
        for cell in result.cells:
            table.add_row("", *map(escape, _cells(cell, varied)))
        out.print(table)
        for cell in result.cells:
            why = _why(cell)
            if why is not None:
                out.print(escape(f"{_name(cell)}: {why}"))
        if not result.complete:
            out.print("\nNot all is measured yet; the same line goes on.")


def as_markdown(result: SweepResult) -> str:
    """Return a table for a pull request."""
    varied = _varied(result)
    heads = ["optimizer", *varied, *(name for name, _, _ in _FIGURES)]
    rules = ["---"] * (1 + len(varied)) + ["--:"] * len(_FIGURES)
    rows = [heads, rules, *(_cells(cell, varied) for cell in result.cells)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _varied(result: SweepResult) -> list[str]:
    return list(result.cells[0].options) if result.cells else []


def _cells(cell: SweepCell, varied: list[str]) -> list[str]:
    arm = cell.arm
    figures = [""] * len(_FIGURES)
    if arm is None:
        figures[0] = "–"
    elif arm.status != "ok":
        figures[0] = arm.status
    else:
        figures = [figure(metric_value(arm, metric), scale) for _, metric, scale in _FIGURES]
        figures[_STATE] = f"{arm.state_bytes_per_parameter:.2f}"
    return [cell.optimizer, *(cell.options[name] for name in varied), *figures]


def _why(cell: SweepCell) -> str | None:
    """Return why a cell has no figures."""
    if cell.arm is None:
        return str(cell.why)
    return None if cell.arm.status == "ok" else str(cell.arm.error)


def _name(cell: SweepCell) -> str:
    return ", ".join([cell.optimizer, *(f"{name} {value}" for name, value in cell.options.items())])
