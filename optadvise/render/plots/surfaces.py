"""Trajectories of optimizers on a surface, from the side and from above, as a plot and as an animation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optadvise.core.units import show_number
from optadvise.render.plots import figures
from optadvise.verify.trajectories import Grid, clip_points
from optadvise.verify.trajectory_records import Point, SurfaceSummary, TrajectoriesResult, Trajectory

_FRAMES = 48
_LINEAR_SPAN = 100.0  # a surface with a larger span is drawn in logarithms


class _Heights:
    """Heights of a surface: its values, or their logarithms if they span too much."""

    def __init__(self, surface: SurfaceSummary, grid: Grid) -> None:
        span = float(grid.values.max() - grid.values.min())
        self.is_logarithmic = surface.minimum is not None and span > _LINEAR_SPAN
        self.grid = grid.logarithms if self.is_logarithmic else grid.values
        self.title = "log₁₀(1 + f)" if self.is_logarithmic else "f(x, y)"

    def height_of(self, value: float) -> float:
        """Return the height of a value."""
        return math.log10(1 + max(0.0, value)) if self.is_logarithmic else value


class _Path:
    """Trajectory of one optimizer in both views."""

    def __init__(self, solid: Any, flat: Any, points: Sequence[Point], style: Mapping[str, object], label: str) -> None:
        self._points = points
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 2.2}
        tip = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 9,
               "markeredgecolor": "white", "markeredgewidth": 0.8}  # fmt: skip
        self._solid = solid.plot([], [], [], **line, zorder=5)[0]
        self._flat = flat.plot([], [], **line, zorder=5)[0]
        self._solid_tip = solid.plot([], [], [], **tip, zorder=6)[0]
        self._flat_tip = flat.plot([], [], **tip, zorder=6, clip_on=False)[0]
        self.handle = flat.plot([], [], **{**line, **tip, "linestyle": line["linestyle"]}, label=label)[0]

    def draw(self, step: int | None = None) -> None:
        """Draw the trajectory up to a step (None: all steps), with a marker at its end."""
        points = self._points[: None if step is None else step + 1]
        xs, ys, zs = ([getattr(point, name) for point in points] for name in ("x", "y", "value"))
        self._flat.set_data(xs, ys)
        self._flat_tip.set_data(xs[-1:], ys[-1:])
        self._solid.set_data_3d(xs, ys, zs)
        self._solid_tip.set_data_3d(xs[-1:], ys[-1:], zs[-1:])


def _make_views(result: TrajectoriesResult, grid: Grid) -> tuple[Any, list[_Path]]:
    """Return a figure with the surface from the side and from above, and its trajectories, not yet drawn."""
    surface = result.surface
    heights = _Heights(surface, grid)
    x, y, z = grid.x, grid.y, heights.grid
    figure = figures.make_figure(11.5, 6.4)
    space = figure.add_gridspec(1, 2, width_ratios=(1.12, 1))
    solid = figure.add_subplot(space[0], projection="3d", computed_zorder=False)
    flat = figure.add_subplot(space[1])
    # Black is far below the lowest height, so that dark lines remain visible.
    shades = {"cmap": "Greys_r", "vmin": float(z.min() - 0.9 * (z.max() - z.min()))}
    solid.plot_surface(x, y, z, alpha=0.75, linewidth=0, rcount=121, ccount=121, zorder=0, **shades)
    solid.set(xlabel="x", ylabel="y", xlim=surface.x, ylim=surface.y)
    solid.text2D(0.02, 0.84, f"height: {heights.title}", transform=solid.transAxes, fontsize=10, color=figures.INK)
    solid.view_init(elev=36, azim=52)
    solid.set_box_aspect((1, 1, 0.72), zoom=1.05)
    flat.contourf(x, y, z, levels=14, alpha=0.5, **shades)
    flat.contour(x, y, z, levels=14, colors="#8d99a6", linewidths=0.6, linestyles="solid")
    flat.set(xlabel="x", ylabel="y", xlim=surface.x, ylim=surface.y)
    figure.suptitle(f"{surface.name}: {surface.formula}", x=0.02, ha="left", fontsize=14, fontweight="bold")
    paths = []
    for number, trajectory in enumerate(result.trajectories):
        points = [Point(x=p.x, y=p.y, value=heights.height_of(p.value)) for p in clip_points(trajectory, surface)]
        paths.append(_Path(solid, flat, points, figures.line_style(number), _format_label(trajectory)))
    _draw_landmarks(solid, flat, surface, heights.height_of(result.trajectories[0].points[0].value))
    figure.legend(handles=[path.handle for path in paths], loc="outside lower center", ncols=min(3, len(paths)),
                  frameon=False, fontsize=10, handlelength=4)  # fmt: skip
    return figure, paths


def _format_label(trajectory: Trajectory) -> str:
    end = {"outside": f", left the plot at step {len(trajectory.points) - 1}", "not-finite": ", diverged"}.get(
        trajectory.end, ""
    )
    return f"{trajectory.name}, lr {show_number(trajectory.lr)}{end}"


def _draw_landmarks(solid: Any, flat: Any, surface: SurfaceSummary, height: float) -> None:
    """Draw the start at its height, and the minimum if the surface has one."""
    x, y = surface.start
    marker = {"color": figures.INK, "marker": "o", "markersize": 11, "markerfacecolor": "white",
              "markeredgewidth": 2.2, "linestyle": "none", "zorder": 7}  # fmt: skip
    text = {"textcoords": "offset points", "fontsize": 11, "zorder": 8,
            "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}}  # fmt: skip
    solid.plot([x], [y], [height], **marker)
    flat.plot([x], [y], **marker)
    is_at_right = x > surface.x[1] - 0.2 * (surface.x[1] - surface.x[0])  # no space for the label to the right
    place = {"xytext": (-9 if is_at_right else 9, 9), "ha": "right" if is_at_right else "left"}
    flat.annotate("start", (x, y), **place, **text)
    if surface.minimum is not None:
        flat.plot(*surface.minimum, color=figures.INK, marker="*", markersize=16, markerfacecolor="white", zorder=4)
        flat.annotate("minimum", surface.minimum, (10, -14), **text)


def draw_paths(result: TrajectoriesResult, grid: Grid, file: Path) -> None:
    """Draw trajectories on their surface, from the side and from above."""
    figure, paths = _make_views(result, grid)
    for path in paths:
        path.draw()
    figures.save_figure(figure, file)


def animate_paths(result: TrajectoriesResult, grid: Grid, file: Path) -> None:
    """Write a GIF of the growing trajectories."""
    figure, paths = _make_views(result, grid)
    title = figure.text(0.98, 0.97, "", ha="right", va="top", fontsize=13, color=figures.INK)

    def draw(step: int) -> None:
        title.set_text(f"step {step}")
        for path in paths:
            path.draw(step)

    steps = max(len(trajectory.points) - 1 for trajectory in result.trajectories)
    figures.save_animation(figure, draw, list_frames(steps), file)


def list_frames(steps: int) -> list[int]:
    """Return the steps shown in an animation, including the first and the last."""
    count = min(_FRAMES, steps + 1)
    return [round(n * steps / max(1, count - 1)) for n in range(count)]
