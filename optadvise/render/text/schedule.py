"""Schedules over a run as text: a sentence, a table and plots."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from optadvise.core.units import show_count, show_number
from optadvise.render.labels import format_sentence
from optadvise.render.schedule import ScheduleRun
from optadvise.render.text.console import Page, format_heading, print_rows
from optadvise.render.text.terminal_plot import Axis, Line, draw_plot, has_braille

# Percentages of the run in the table, by the minimum width of the terminal.
_PERCENTS = ((78, (0, 10, 25, 50, 75, 90, 100)), (54, (0, 25, 50, 100)), (0, (0, 100)))
_CURVE_POINTS = 400
_PLOT_COLUMNS = 80


def print_schedules(runs: Sequence[ScheduleRun]) -> None:
    """Print schedules over the same run."""
    with Page() as out:
        for number, run in enumerate(runs):
            out.print(f"{chr(10) if number else ''}[bold]{escape(run.card.name)}[/bold]  ({run.card.id})")
            sentences = (run.card.summary, _describe_run(run), _describe_warmup(run))
            print_rows(out, [(escape(sentence),) for sentence in sentences if sentence], "wrap")
        out.print(format_heading("Learning rate over the run"))
        percents = next(percents for columns, percents in _PERCENTS if out.width >= columns)
        steps = [_format_step(runs[0].step_at(percent / 100)) for percent in percents]
        learning_rates = [
            [run.card.id, *(_format_lr(run.lr_at(run.step_at(percent / 100))) for percent in percents)] for run in runs
        ]
        columns = [("last" if percent == 100 else f"{percent} %", "right") for percent in percents]
        print_rows(out, [["step", *steps], *learning_rates], ("", "fold"), *columns)
        out.print()
        _print_curves(out, runs)


def _print_curves(out: Console, runs: Sequence[ScheduleRun]) -> None:
    fractions = [n / (_CURVE_POINTS - 1) for n in range(_CURVE_POINTS)]
    lines = [Line(run.card.id, [run.lr_at(run.step_at(fraction)) for fraction in fractions]) for run in runs]
    x = Axis(title="step", low=0, high=runs[0].steps - 1, show=_format_step)
    y = Axis(title="learning rate", low=0.0, high=max(max(line.values) for line in lines), show=_format_lr)
    encoding = sys.stdout.encoding
    for row in draw_plot(lines, x, y, braille=has_braille(encoding), width=min(_PLOT_COLUMNS, out.width)):
        out.print(escape(row), no_wrap=True, soft_wrap=True)


def _describe_run(run: ScheduleRun) -> str:
    """Return the numbers of a schedule as a sentence."""
    points = run.list_points()
    peak = max(lr for _, lr in points)
    peak_steps = [step for step, lr in points if lr >= (1 - 1e-6) * peak]
    first, last = peak_steps[0], peak_steps[-1]
    lowest = min(lr for step, lr in points if step >= first)
    steps = f"{run.steps:,} step{'' if run.steps == 1 else 's'}"
    warmup = f"{steps} with {run.warmup_steps:,} warmup step{'' if run.warmup_steps == 1 else 's'}"
    start = f"starts at {_format_lr(points[0][1])}, " if first else ""
    rise = f"reaches {_format_lr(peak)} at step {first:,}" if first else f"starts at {_format_lr(peak)}"
    plateau = f", stays constant to step {last:,}" if last - first > run.steps / 50 else ""
    end = f"falls to {_format_lr(lowest)}" if lowest < (1 - 1e-6) * peak else "stays there"
    return f"{warmup if run.warmup_steps else f'{steps}, no warmup'}: {start}{rise}{plateau} and {end}."


def _describe_warmup(run: ScheduleRun) -> str:
    """Return why the warmup has this length; empty without a warmup."""
    return format_sentence(f"warmup: {run.warmup_source}") if run.warmup_steps else ""


def _format_step(step: float) -> str:
    return show_count(round(step)) if step else "0"


def _format_lr(lr: float) -> str:
    return show_number(float(f"{lr:.3g}"))
