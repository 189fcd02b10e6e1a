"""Paths of optimizers on a surface as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from optadvise.core.units import show_number
from optadvise.render.labels import DASH
from optadvise.render.text.console import Column, Page, print_rows, print_section
from optadvise.verify.trajectory_records import TrajectoriesResult, Trajectory

_TABLE_COLUMNS = 72
_ENDS = {"outside": "out", "not-finite": "diverged"}


def print_trajectories(result: TrajectoriesResult) -> None:
    """Print where each optimizer went."""
    with Page() as out:
        _print_surface(out, result)
        if out.width < _TABLE_COLUMNS:
            print_rows(out, [(_describe_path(trajectory),) for trajectory in result.trajectories], "wrap")
        else:
            columns: list[Column] = [("", "fold"), ("lr", "right"), ("steps", "right"), ("ends at", "right"),
                                     ("value", "right"), ("arrives", "right"), ("", "left")]  # fmt: skip
            print_rows(out, map(_format_row, result.trajectories), *columns)
        print_section(out, "Learning rates", _list_rates(result), "wrap")
        omissions = [(omission.optimizer, escape(omission.because)) for omission in result.skipped]
        print_section(out, "Cannot walk here", omissions, "left", "wrap")


def _print_surface(out: Console, result: TrajectoriesResult) -> None:
    surface = result.surface
    x, y = (show_number(value) for value in surface.start)
    out.print(f"[bold]{escape(surface.name)}[/bold]  {escape(surface.formula)}")
    has_one_rate = result.trajectories and not any(trajectory.cite for trajectory in result.trajectories)
    rates = "all at one learning rate" if has_one_rate else "each optimizer at its own learning rate"
    out.print(f"  {result.steps:,} steps from ({x}, {y}), {rates}")
    goal = f"it {surface.goal.meaning}, f at most {show_number(surface.goal.at_most)}"
    out.print(f"  arrives: the first step at which {escape(goal)}")
    out.print("  out: it left what is drawn, and was stopped there")
    out.print()


def _format_row(trajectory: Trajectory) -> tuple[str, ...]:
    last = trajectory.points[-1]
    arrival = DASH if trajectory.reached is None else f"{trajectory.reached:,}"
    steps, end = f"{len(trajectory.points) - 1:,}", _ENDS.get(trajectory.end, "")
    place, value = f"{last.x:.3g}, {last.y:.3g}", f"{last.value:.3g}"
    return (trajectory.optimizer, show_number(trajectory.lr), steps, place, value, arrival, end)


def _describe_path(trajectory: Trajectory) -> str:
    """Return a row of the table as a sentence, for terminals that are too narrow for it."""
    optimizer, lr, steps, place, value, arrival, end = _format_row(trajectory)
    arrives = "does not arrive" if trajectory.reached is None else f"arrives at step {arrival}"
    return f"{optimizer}: lr {lr}, {steps} steps to {place}, value {value}, {arrives}" + (f", {end}" if end else "")


def _list_rates(result: TrajectoriesResult) -> Iterator[tuple[str]]:
    """Yield the reason of each learning rate, with the optimizers that it holds for."""
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for trajectory in result.trajectories:
        names = reasons.setdefault((trajectory.because, trajectory.cite), [])
        names.append(f"{trajectory.optimizer} {show_number(trajectory.lr)}")
    for (because, cite), names in reasons.items():
        sources = f" \\[{', '.join(cite)}]" if cite else ""
        yield (f"{', '.join(names)}: {escape(because)}{sources}",)
