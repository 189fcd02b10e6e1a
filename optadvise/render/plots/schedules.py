"""Schedules over a run as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optadvise.core.units import show_count, show_number
from optadvise.render.plots import figures
from optadvise.render.schedule import ScheduleRun

_MARKERS = 9  # on each curve


def draw_schedules(runs: Sequence[ScheduleRun], file: Path) -> None:
    """Draw the learning rates of schedules over the same run."""
    figure = figures.make_figure(9, 4.8)
    axes = figure.add_subplot()
    for number, run in enumerate(runs):
        points = run.list_points()
        distance = max(1, len(points) // _MARKERS)
        markers = (number * distance // len(runs), distance)  # staggered between the curves
        axes.plot(*zip(*points, strict=True), **figures.line_style(number), label=run.card.name, linewidth=2,
                  markersize=5, markevery=markers, clip_on=False)  # fmt: skip
    run = runs[0]
    warmups = sorted({run.warmup_steps for run in runs if run.warmup_steps})
    warmup = f"{' or '.join(f'{steps:,}' for steps in warmups)} warmup steps" if warmups else "no warmup"
    subtitle = f"peak learning rate {show_number(run.lr)}, {run.steps:,} steps, {warmup}"
    figures.set_title(axes, "Learning rate over the run", subtitle)
    figures.label_axes(axes, "optimizer step", "learning rate")
    figures.format_axis(axes.xaxis, lambda step: show_count(step) if step else "0")
    figures.format_axis(axes.yaxis, lambda lr: show_number(float(f"{lr:.6g}")))
    axes.set_xlim(0, run.steps)
    axes.set_ylim(bottom=0)
    figures.add_legend(axes, handlelength=3.5)
    figures.save_figure(figure, file)
