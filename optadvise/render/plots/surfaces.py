"""Paths of optimizers on a surface, from the side and from above: as a picture and as an animation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optadvise.core.records import Surface
from optadvise.core.units import show_number
from optadvise.render.plots import figures
from optadvise.render.text.trajectories import Walked

if TYPE_CHECKING:
    from optadvise.verify.trajectories import Grid, Point, Walk

_FRAMES = 48
_TALL = 100.0  # a surface whose values span more is drawn by their logarithm


class _Heights:
    """How a surface's values become heights: as they are, or by their logarithm where they span too much."""

    def __init__(self, surface: Surface, grid: Grid) -> None:
        self.tall = surface.minimum is not None and float(grid.values.max() - grid.values.min()) > _TALL
        self.all = grid.logarithms if self.tall else grid.values
        self.title = "log₁₀(1 + f)" if self.tall else "f(x, y)"

    def of(self, value: float) -> float:
        """Return the height of a value."""
        return math.log10(1 + max(0.0, value)) if self.tall else value


def _drawn(walked: Walked, grid: Grid) -> tuple[Any, list[Any]]:
    """Return a figure with the surface from the side and from above, and a function for each path that draws it."""
    from optadvise.verify.trajectories import clipped

    surface = walked.surface
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
    for number, walk in enumerate(walked.walks):
        points = [(px, py, heights.of(pz)) for px, py, pz in clipped(walk, surface)]
        paths.append(_Path(solid, flat, points, figures.style(number), _label(walk), walk.end))
    _landmarks(solid, flat, walked, heights)
    made.legend(handles=[path.handle for path in paths], loc="outside lower center", ncols=min(3, len(paths)),
                frameon=False, fontsize=10, handlelength=4)  # fmt: skip
    return made, paths


def _under(heights: Any) -> float:
    """Return where black would be, so far below the lowest height that dark lines stand out against it."""
    return float(heights.min() - 0.9 * (heights.max() - heights.min()))


def _label(walk: Walk) -> str:
    words = {"outside": f", out at step {len(walk.points) - 1}", "not-finite": ", diverged"}.get(walk.end, "")
    return f"{walk.name}, lr {show_number(walk.lr)}{words}"


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
        xs, ys, zs = zip(*self.points[: step + 1], strict=True)
        self._flat.set_data(xs, ys)
        self._flat_tip.set_data(xs[-1:], ys[-1:])
        self._solid.set_data_3d(xs, ys, zs)
        self._solid_tip.set_data_3d(xs[-1:], ys[-1:], zs[-1:])


def _landmarks(solid: Any, flat: Any, walked: Walked, heights: _Heights) -> None:
    surface = walked.surface
    x, y = surface.start
    z = heights.of(walked.walks[0].points[0][2])
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


def picture(walked: Walked, grid: Grid, file: Path) -> None:
    """Draw the paths on the surface, from the side and from above.

    Args:
        walked: The paths.
        grid: The surface.
        file: Where to.
    """
    made, paths = _drawn(walked, grid)
    for path in paths:
        path.show(len(path.points))
    figures.save(made, file)


def animation(walked: Walked, grid: Grid, file: Path) -> None:
    """Draw the paths as they grow.

    Args:
        walked: The paths.
        grid: The surface.
        file: A GIF.
    """
    made, paths = _drawn(walked, grid)
    count = made.text(0.98, 0.97, "", ha="right", va="top", fontsize=13, color=figures.INK)

    def draw(step: int) -> None:
        count.set_text(f"step {step}")
        for path in paths:
            path.show(step)

    figures.animate(made, draw, frames(max(len(walk.points) - 1 for walk in walked.walks)), file)


def frames(steps: int) -> list[int]:
    """Return the steps that an animation shows, the first and the last among them.

    Args:
        steps: Of the longest path.
    """
    count = min(_FRAMES, steps + 1)
    return [round(n * steps / max(1, count - 1)) for n in range(count)]
