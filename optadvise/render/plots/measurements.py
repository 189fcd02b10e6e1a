"""What was measured, as a picture: memory against speed, with intervals and the arms that no other beats in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from msgspec import Struct

from optadvise.benchmark.comparison.loaded_result import ArmResult, Figure, Side, side_of
from optadvise.benchmark.statistics import Interval
from optadvise.core.errors import CannotRunHereError
from optadvise.core.units import GIB, show_count
from optadvise.render.plots import figures

_ALIKE, _APART = 0.02, 0.025  # of the span of memory: which arms would hide each other, and how far apart they go


class Point(Struct, frozen=True):
    """An arm's place."""

    label: str
    memory: float
    speed: Figure


class Axes(Struct, frozen=True):
    """Which figures are drawn: those that every arm has, counted in the same way."""

    memory: str  # a metric
    speed: str
    unit: str  # of the throughput

    @property
    def better(self) -> float:
        """1 where more speed is a larger figure, -1 where it is a smaller one."""
        return 1.0 if self.speed == "throughput" else -1.0


def axes_of(arms: Sequence[ArmResult], *, alone: bool = False) -> Axes | None:
    """Return what some arms can be compared by, None where there is nothing.

    The allocator's peak is the memory that counts, but a process's peak is mostly not the optimizer's, so that without
    the former the state is drawn, which is counted exactly.

    Args:
        arms: Those that ran.
        alone: Only step() was measured.
    """
    if not arms:
        return None
    allocated = all(arm.peak_kind == "allocated" for arm in arms)
    units = {arm.unit for arm in arms}
    times = ("optimizer_seconds", "step_seconds") if alone else ("step_seconds", "optimizer_seconds")
    for memory in ("peak_memory",) * allocated + ("state_bytes",):
        for speed in ("throughput",) * (len(units) == 1) + times:
            if all(memory in arm.figures and speed in arm.figures for arm in arms):
                return Axes(memory, speed, arms[0].unit)
    return None


def front(points: Sequence[Point], better: float) -> list[Point]:
    """Return the points that no other beats: in memory, in speed or in both; the least memory first.

    Args:
        points: All of them.
        better: 1 where more speed is a larger figure, -1 where it is a smaller one.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.memory, -better * p.speed.value)):
        if not found or better * point.speed.value > better * found[-1].speed.value:
            found.append(point)
    return found


def bench(result: Mapping[str, Any], file: Path) -> None:
    """Draw a result of `optadvise bench`.

    Args:
        result: The result.
        file: Where to.

    Raises:
        CannotRunHereError: Nothing of it can be drawn.
    """
    side = side_of(result, "NEW", "bench")
    ran = _ran(side)
    axes = _axes(ran, side, file)
    points = _points(ran, axes)
    made = figures.figure(9.5, 5.6)
    plot = made.add_subplot()
    xs = _apart(points)
    _front(plot, points, xs, axes)
    for number, (point, x) in enumerate(zip(points, xs, strict=True)):
        _place(plot, point, x, number)
    beside = "; equal memory side by side" if any(x != p.memory for x, p in zip(xs, points, strict=True)) else ""
    missing = [arm.label for arm in side.arms.values() if arm.status != "ok"]
    _finish(plot, axes, points, f"{_about(side)}{beside}", missing)
    figures.save(made, file)


def sweep(result: Mapping[str, Any], file: Path) -> None:
    """Draw the cells of a sweep that ran, each by its optimizer and what it varies.

    Args:
        result: The JSON of `optadvise sweep`.
        file: Where the picture goes.

    Raises:
        CannotRunHereError: There is nothing to draw.
    """
    arms = []
    for cell in result["cells"]:
        if cell["arm"] is not None and cell["arm"]["status"] == "ok":
            label = " ".join([cell["optimizer"], *cell["options"].values()])
            arms.append({**cell["arm"], "label": label})
    if not arms:
        raise CannotRunHereError(f"--plot {file}: no cell ran, so that there is nothing to draw")
    told = result["options"]
    spec = {"workload": told.get("workload", "transformer"), "dtype": told.get("dtype"),
            "optimizer_only": told.get("optimizer_only") == "true"}  # fmt: skip
    bench({"arms": arms, "spec": spec, "environment": result["environment"], "ratios": [], "complete": True}, file)


def comparison(base: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, str], file: Path) -> None:
    """Draw two results of `optadvise bench`: where each arm was, hollow, and where it is now.

    Args:
        base: The result to compare with.
        new: The result in question.
        names: How the two are called.
        file: Where to.

    Raises:
        CannotRunHereError: Nothing of them can be drawn.
    """
    before, after = side_of(base, "BASE", names[0]), side_of(new, "NEW", names[1])
    shared = [arm.label for arm in _ran(after) if arm.label in {other.label for other in _ran(before)}]
    was, now = ([side.arms[label] for label in shared] for side in (before, after))
    axes = _axes([*was, *now], after, file)
    pairs = [point for pair in zip(_points(was, axes), _points(now, axes), strict=True) for point in pair]
    made = figures.figure(9.5, 5.6)
    plot = made.add_subplot()
    xs = [point.memory for point in pairs]  # as it is: a shift would look like a change
    _front(plot, pairs[1::2], xs[1::2], axes)
    for number in range(len(shared)):
        (old, here), (x0, x1) = pairs[2 * number : 2 * number + 2], xs[2 * number : 2 * number + 2]
        _place(plot, old, x0, number, hollow=True)
        _place(plot, here, x1, number)
        arrow = {"arrowstyle": "->", "color": figures.style(number)["color"], "linewidth": 1.2, "linestyle": ":"}
        plot.annotate("", (x1, here.speed.value), (x0, old.speed.value), arrowprops=arrow)
    names = (Path(names[0]).name, Path(names[1]).name)
    words = f"hollow: {names[0]}, filled: {names[1]}; {_about(after)}"
    if _about(before) != _about(after):
        words = f"not measured alike: {names[0]}, hollow, {_about(before)}; {names[1]}, filled, {_about(after)}"
    _finish(plot, axes, pairs, words, [label for label in {**before.arms, **after.arms} if label not in shared])
    figures.save(made, file)


def _ran(side: Side) -> list[ArmResult]:
    return [arm for arm in side.arms.values() if arm.status == "ok"]


def _axes(arms: Sequence[ArmResult], side: Side, file: Path) -> Axes:
    axes = axes_of(arms, alone=bool(side.spec.get("optimizer_only")))
    if axes is None:
        raise CannotRunHereError(
            f"--plot {str(file)!r}: no two figures were measured of every optimizer; nothing to draw"
        )
    return axes


def _points(arms: Iterable[ArmResult], axes: Axes) -> list[Point]:
    """Return the arms' places, times in milliseconds."""
    scale = 1.0 if axes.speed == "throughput" else 1e3
    found = []
    for arm in arms:
        figure = arm.figures[axes.speed]
        value, interval = figure.value, figure.interval
        scaled = None if interval is None else Interval(interval.low * scale, interval.high * scale)
        found.append(Point(arm.label, arm.figures[axes.memory].value, Figure(value * scale, scaled)))
    return found


def _apart(points: Sequence[Point]) -> list[float]:
    """Return where each point is drawn: those of the same memory side by side, so that every interval is seen."""
    span = max(p.memory for p in points) - min(p.memory for p in points) or max(p.memory for p in points) or 1.0
    found = []
    for number, point in enumerate(points):
        alike = [n for n, other in enumerate(points) if abs(other.memory - point.memory) < _ALIKE * span]
        found.append(point.memory + alike.index(number) * _APART * span)
    return found


def _front(plot: Any, points: Sequence[Point], places: Sequence[float], axes: Axes) -> None:
    """Mark the points that no other beats, with the steps between them."""
    best = front(points, axes.better)
    most = max(p.memory for p in points)
    xs, ys = [*(p.memory for p in best), most], [p.speed.value for p in (*best, best[-1])]
    words = f"Pareto front: {best[0].label}" if len(best) == 1 else "Pareto front"
    plot.step(xs, ys, where="post", color="#7c8894", linewidth=1.3, linestyle=(0, (4, 3)), zorder=1, label=words)
    for point, x in zip(points, places, strict=True):
        if point in best:
            plot.plot([x], [point.speed.value], marker="o", markersize=19, color="#7c8894", fillstyle="none", zorder=1)


def _place(plot: Any, point: Point, x: float, number: int, *, hollow: bool = False) -> None:
    style, value, interval = figures.style(number), point.speed.value, point.speed.interval
    ends = None if interval is None else [[value - interval.low], [interval.high - value]]
    plot.errorbar(
        [x], [value], yerr=ends, color=style["color"], marker=style["marker"], markersize=9, capsize=4,
        linestyle="none", elinewidth=1.6, zorder=3, clip_on=False,
        markerfacecolor="white" if hollow else style["color"], label="_" if hollow else point.label,
    )  # fmt: skip


def _finish(plot: Any, axes: Axes, points: Sequence[Point], about: str, missing: Sequence[str]) -> None:
    most = max(p.memory for p in points)
    size, unit = next(((s, u) for s, u in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if most >= s), (1, "bytes"))
    memory = {"peak_memory": "peak memory as the allocator counts", "state_bytes": "optimizer state"}[axes.memory]
    speed = {"throughput": axes.unit, "step_seconds": "whole step, ms", "optimizer_seconds": "step(), ms"}[axes.speed]
    goal = "up and left is better" if axes.better > 0 else "down and left is better"
    figures.title(plot, "Memory against speed", f"{about}; {goal}")
    spread = ", with 95 % interval" if any(point.speed.interval is not None for point in points) else ""
    figures.plain_axes(plot, f"{memory}, {unit}", f"{speed}{spread}")
    span = most - min(p.memory for p in points) or most or 1.0
    plot.set_xlim(max(0.0, min(p.memory for p in points) - 0.1 * span), most + 0.14 * span)
    ticks = [tick for tick in figures.ticks(plot.get_xlim()[0] / size, plot.get_xlim()[1] / size) if tick >= 0]
    plot.set_xticks([tick * size for tick in ticks], [f"{tick:g}" for tick in ticks])
    if axes.speed == "throughput":
        figures.written(plot.yaxis, lambda value: show_count(value) if value > 0 else f"{value:g}")
    plot.margins(y=0.12)
    plot.set_ylim(bottom=max(0.0, plot.get_ylim()[0]))
    plot.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=10)
    if missing:
        words = fill(f"not drawn: {', '.join(missing)}", 110)
        plot.annotate(words, (0, 0), (0, -46), xycoords="axes fraction", ha="left", va="top",
                      textcoords="offset points", fontsize=9, color="#55606c")  # fmt: skip


def _about(side: Side) -> str:
    spec, environment = side.spec, side.environment
    device = environment.get("device_name") or environment.get("processor") or spec.get("device")
    what = "step() alone" if spec.get("optimizer_only") else spec.get("workload")
    return ", ".join(str(word) for word in (what, spec.get("dtype"), device) if word)
