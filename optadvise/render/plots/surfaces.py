"""Paths of optimizers on a surface, from the side and from above: as a picture and as an animation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optadvise.core.units import show_number
from optadvise.render.plots import figures
from optadvise.verify.trajectory_records import Point, SurfaceSummary, TrajectoriesResult, Trajectory

if TYPE_CHECKING:
    from optadvise.verify.trajectories import Grid

_FRAMES = 48
_TALL = 100.0  # a surface whose values span more is drawn by their logarithm


class _Heights:
    """How a surface's values become heights: as they are, or by their logarithm where they span too much."""

    def __init__(self, surface: SurfaceSummary, grid: Grid) -> None:
        self.tall = surface.minimum is not None and float(grid.values.max() - grid.values.min()) > _TALL
        self.all = grid.logarithms if self.tall else grid.values
        self.title = "log₁₀(1 + f)" if self.tall else "f(x, y)"

    def of(self, value: float) -> float:
        """Return the height of a value."""
        return math.log10(1 + max(0.0, value)) if self.tall else value


def _drawn(result: TrajectoriesResult, grid: Grid) -> tuple[Any, list[Any]]:
    """Return a figure with the surface from the side and from above, and a function for each path that draws it."""
    from optadvise.verify.trajectories import clip_points

    surface = result.surface
    heights = _Heights(surface, grid)
    x, y, z = grid.x, grid.y, heights.all
    made = figures.figure(11.5, 6.4)
    space = made.add_gridspec(1, 2, width_ratios=(1.12, 1))
    solid = made.add_subplot(space[0], projection="3d", computed_zorder=False)
    flat = made.add_subplot(space[1])
    dark = {"cmap": "Greys_r", "vmin": _under(z)}
    solid.plot_surface(x, y, z, alpha=0.75, linewidth=0, rcount=121, ccount=121, zorder=0, **dark)
    solid.set(xlabel="x", ylabel="y", xlim=surface.x, ylim=surface.y)
    solid.text2D(0.02, 0.84, f"height: {heights.title}", transform=solid.transAxes, fontsize=10, color=figures.INK)
    solid.view_init(elev=36, azim=52)
    solid.set_box_aspect((1, 1, 0.72), zoom=1.05)
    flat.contourf(x, y, z, levels=14, alpha=0.5, **dark)
    flat.contour(x, y, z, levels=14, colors="#8d99a6", linewidths=0.6, linestyles="solid")
    flat.set(xlabel="x", ylabel="y", xlim=surface.x, ylim=surface.y)
    made.suptitle(f"{surface.name}: {surface.formula}", x=0.02, ha="left", fontsize=14, fontweight="bold")
    paths = []
    for number, each in enumerate(result.trajectories):
        points = [Point(p.x, p.y, heights.of(p.value)) for p in clip_points(each, surface)]
        paths.append(_Path(solid, flat, points, figures.style(number), _label(each), each.end))
    _landmarks(solid, flat, result, heights)
    made.legend(handles=[path.handle for path in paths], loc="outside lower center", ncols=min(3, len(paths)),
                frameon=False, fontsize=10, handlelength=4)  # fmt: skip
    return made, paths


def _under(heights: Any) -> float:
    """Return where black would be, so far below the lowest height that dark lines stand out against it."""
    return float(heights.min() - 0.9 * (heights.max() - heights.min()))


def _label(trajectory: Trajectory) -> str:
    words = {"outside": f", out at step {len(trajectory.points) - 1}", "not-finite": ", diverged"}.get(
        trajectory.end, ""
    )
    return f"{trajectory.name}, lr {show_number(trajectory.lr)}{words}"


class _Path:
    """One optimizer's path in both views."""

    def __init__(self, solid: Any, flat: Any, points: Sequence[Point], style: Mapping[str, Any], label: str,
                 end: str) -> None:  # fmt: skip
        self.points, self._end = points, end
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 2.2}
        tip = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 9,
               "markeredgecolor": "white", "markeredgewidth": 0.8}  # fmt: skip
        self._solid = solid.plot([], [], [], **line, zorder=5)[0]
        self._flat = flat.plot([], [], **line, zorder=5)[0]
        self._solid_tip = solid.plot([], [], [], **tip, zorder=6)[0]
        self._flat_tip = flat.plot([], [], **tip, zorder=6, clip_on=False)[0]
        handles = flat.plot([], [], **{**line, **tip, "linestyle": line["linestyle"]}, label=label)
        self.handle = handles[0]

    def show(self, step: int) -> None:
        """Draw the path up to a step; the mark is where the optimizer then is."""
        points = self.points[: step + 1]
        xs, ys, zs = [p.x for p in points], [p.y for p in points], [p.value for p in points]
        self._flat.set_data(xs, ys)
        self._flat_tip.set_data(xs[-1:], ys[-1:])
        self._solid.set_data_3d(xs, ys, zs)
        self._solid_tip.set_data_3d(xs[-1:], ys[-1:], zs[-1:])


def _landmarks(solid: Any, flat: Any, result: TrajectoriesResult, heights: _Heights) -> None:
    surface = result.surface
    x, y = surface.start
    z = heights.of(result.trajectories[0].points[0].value)
    mark = {"color": figures.INK, "marker": "o", "markersize": 11, "markerfacecolor": "white", "markeredgewidth": 2.2,
            "linestyle": "none", "zorder": 7}  # fmt: skip
    solid.plot([x], [y], [z], **mark)
    flat.plot([x], [y], **mark)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    right = x > surface.x[1] - 0.2 * (surface.x[1] - surface.x[0])  # where the word would not fit
    place = {"xytext": (-9 if right else 9, 9), "ha": "right" if right else "left"}
    flat.annotate("start", (x, y), **place, textcoords="offset points", fontsize=11, zorder=8, bbox=box)
    if surface.minimum is not None:
        flat.plot(*surface.minimum, color=figures.INK, marker="*", markersize=16, markerfacecolor="white", zorder=4)
        flat.annotate(
            "minimum", surface.minimum, (10, -14), textcoords="offset points", fontsize=11, zorder=8, bbox=box
        )


def picture(result: TrajectoriesResult, grid: Grid, file: Path) -> None:
    """Draw the paths on the surface, from the side and from above.

    Args:
        result: The trajectories.
        grid: The surface.
        file: Where to.
    """
    made, paths = _drawn(result, grid)
    for path in paths:
        path.show(len(path.points))
    figures.save(made, file)


def animation(result: TrajectoriesResult, grid: Grid, file: Path) -> None:
    """Draw the paths as they grow.

    Args:
        result: The trajectories.
        grid: The surface.
        file: A GIF.
    """
    made, paths = _drawn(result, grid)
    count = made.text(0.98, 0.97, "", ha="right", va="top", fontsize=13, color=figures.INK)

    def draw(step: int) -> None:
        count.set_text(f"step {step}")
        for path in paths:
            path.show(step)

    figures.animate(made, draw, frames(max(len(each.points) - 1 for each in result.trajectories)), file)


def frames(steps: int) -> list[int]:
    """Return the steps that an animation shows, the first and the last among them.

    Args:
        steps: Of the longest path.
    """
    count = min(_FRAMES, steps + 1)
    return [round(n * steps / max(1, count - 1)) for n in range(count)]
