"""Optimizers' trajectories on a surface as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.markup import escape

from optadvise.core.units import show_number
from optadvise.render.text.console import Page, grid, heading, titled
from optadvise.verify.trajectory_records import SurfaceSummary, TrajectoriesResult, Trajectory

_TABLE_WIDTH = 72  # columns
_ENDS = {"outside": "out", "not-finite": "diverged"}


def as_json(result: TrajectoriesResult) -> str:
    """Return the trajectories as one JSON object."""
    return json.dumps(msgspec.to_builtins(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def text(result: TrajectoriesResult) -> None:
    """Print where each optimizer went, and its learning rate."""
    with Page() as out:
        _print_surface(out, result)
        _print_table(out, result.trajectories)
        _print_rates(out, result.trajectories)
        if result.skipped:
            out.print(heading("Cannot walk here"))
            table = grid("left", "wrap")
            for skipped in result.skipped:
                table.add_row("", skipped.optimizer, escape(skipped.because))
            out.print(table)


def _print_surface(out: Console, result: TrajectoriesResult) -> None:
    surface: SurfaceSummary = result.surface
    x, y = (show_number(value) for value in surface.start)
    out.print(f"[bold]{escape(surface.name)}[/bold]  {escape(surface.formula)}")
    has_one_rate = result.trajectories and not any(each.cite for each in result.trajectories)
    rates = "all at one learning rate" if has_one_rate else "each optimizer at its own learning rate"
    out.print(f"  {result.steps:,} steps from ({x}, {y}), {rates}")
    goal = f"it {surface.goal.say}, f at most {show_number(surface.goal.at_most)}"
    out.print(f"  arrives: the first step at which {escape(goal)}")
    out.print("  out: it left what is drawn, and was stopped there")
    out.print()


def _print_table(out: Console, trajectories: Sequence[Trajectory]) -> None:
    if out.width < _TABLE_WIDTH:
        table = grid("wrap")
        for trajectory in trajectories:
            table.add_row("", _describe(trajectory))
    else:
        table = titled(2, ("", "fold"), ("lr", "right"), ("steps", "right"), ("ends at", "right"), ("value", "right"),
                       ("arrives", "right"), ("", "left"))  # fmt: skip
        for each in trajectories:
            last = each.points[-1]
            reached = "–" if each.reached is None else f"{each.reached:,}"
            table.add_row("", each.optimizer, show_number(each.lr), f"{len(each.points) - 1:,}",
                          f"{last.x:.3g}, {last.y:.3g}", f"{last.value:.3g}", reached,
                          _ENDS.get(each.end, ""))  # fmt: skip
    out.print(table)


def _describe(trajectory: Trajectory) -> str:
    """Return a row of the table as a sentence, for a narrow terminal."""
    last = trajectory.points[-1]
    arrives = "does not arrive" if trajectory.reached is None else f"arrives at step {trajectory.reached:,}"
    end = f", {_ENDS[trajectory.end]}" if trajectory.end in _ENDS else ""
    return (f"{trajectory.optimizer}: lr {show_number(trajectory.lr)}, {len(trajectory.points) - 1:,} steps to "
            f"{last.x:.3g}, {last.y:.3g}, value {last.value:.3g}, {arrives}{end}")  # fmt: skip


def _print_rates(out: Console, trajectories: Sequence[Trajectory]) -> None:
    """Print the reason of each learning rate, equal reasons on one line."""
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for each in trajectories:
        reasons.setdefault((each.because, each.cite), []).append(f"{each.optimizer} {show_number(each.lr)}")
    out.print(heading("Learning rates"))
    table = grid("wrap")
    for (because, cite), names in reasons.items():
        sources = f" \\[{', '.join(cite)}]" if cite else ""
        table.add_row("", f"{', '.join(names)}: {escape(because)}{sources}")
    out.print(table)
