"""Trajectories of optimizers on a surface as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from optadvise.core.units import show_number
from optadvise.render.labels import DASH
from optadvise.render.text.console import Column, Page, print_paragraph, print_rows, print_section
from optadvise.verify.trajectory_records import TrajectoriesResult, Trajectory

_TABLE_COLUMNS = 72
_ENDS = {"outside": "left the plot", "not-finite": "diverged"}


def print_trajectories(result: TrajectoriesResult) -> None:
    """Print the trajectory of each optimizer."""
    with Page() as out:
        _print_surface(out, result)
        if out.width < _TABLE_COLUMNS:
            print_rows(out, [(_describe_path(trajectory),) for trajectory in result.trajectories], "wrap")
        else:
            columns: list[Column] = [("", "fold"), ("lr", "right"), ("steps", "right"), ("ends at", "right"),
                                     ("value", "right"), ("arrival", "right"), ("", "left")]  # fmt: skip
            print_rows(out, map(_format_row, result.trajectories), *columns)
        print_section(out, "Learning rates", _list_lr_reasons(result), "wrap")
        omissions = [(omission.optimizer, escape(omission.because)) for omission in result.skipped]
        print_section(out, "Not usable on this surface", omissions, "left", "wrap")


def _print_surface(out: Console, result: TrajectoriesResult) -> None:
    surface = result.surface
    x, y = (show_number(value) for value in surface.start)
    out.print(f"[bold]{escape(surface.name)}[/bold]  {escape(surface.formula)}")
    has_one_lr = result.trajectories and not any(trajectory.cite for trajectory in result.trajectories)
    lr_note = "one learning rate for all" if has_one_lr else "each optimizer with its own learning rate"
    out.print(f"  {result.steps:,} steps from ({x}, {y}), {lr_note}")
    goal = f"the optimizer {surface.goal.meaning}, f at most {show_number(surface.goal.at_most)}"
    print_paragraph(out, f"Arrival: first step at which {escape(goal)}.")
    out.print()


def _format_row(trajectory: Trajectory) -> tuple[str, ...]:
    last = trajectory.points[-1]
    arrival = DASH if trajectory.reached is None else f"{trajectory.reached:,}"
    steps, end = f"{len(trajectory.points) - 1:,}", _ENDS.get(trajectory.end, "")
    end_point, value = f"{last.x:.3g}, {last.y:.3g}", f"{last.value:.3g}"
    return (trajectory.optimizer, show_number(trajectory.lr), steps, end_point, value, arrival, end)


def _describe_path(trajectory: Trajectory) -> str:
    """Return a row of the table as a sentence, for narrow terminals."""
    optimizer, lr, steps, end_point, value, arrival, end = _format_row(trajectory)
    arrives = "no arrival" if trajectory.reached is None else f"arrival at step {arrival}"
    return f"{optimizer}: lr {lr}, {steps} steps to {end_point}, value {value}, {arrives}" + (f", {end}" if end else "")


def _list_lr_reasons(result: TrajectoriesResult) -> Iterator[tuple[str]]:
    """Yield the reason of each learning rate, with its optimizers."""
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for trajectory in result.trajectories:
        names = reasons.setdefault((trajectory.because, trajectory.cite), [])
        names.append(f"{trajectory.optimizer} {show_number(trajectory.lr)}")
    for (because, cite), names in reasons.items():
        sources = f" \\[{', '.join(cite)}]" if cite else ""
        yield (f"{', '.join(names)}: {escape(because)}{sources}",)
