"""Plots of benchmarks: memory against speed, with intervals and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from optadvise.benchmark.metrics import metric_figure, metric_value, peak_source
from optadvise.benchmark.records import ArmResult, BenchmarkResult, Figure
from optadvise.benchmark.sweep_records import SweepResult
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from optadvise.core.units import GIB, show_count
from optadvise.render.plots import figures

# Shares of the memory span: arms closer than the first overlap, and are drawn apart by the second.
_ALIKE, _APART = 0.02, 0.025


class Point(Struct, frozen=True):
    """Memory and speed of an arm."""

    label: str
    memory: float
    speed: Figure


class Axes(Struct, frozen=True):
    """Metrics of the axes: every arm has them, measured in the same way."""

    memory: str  # a metric
    speed: str
    unit: str  # of the throughput

    @property
    def better(self) -> float:
        """Return the sign of an improvement: 1 if larger figures are faster, otherwise -1."""
        return 1.0 if self.speed == "throughput" else -1.0


def axes_of(arms: Sequence[ArmResult], *, alone: bool = False) -> Axes | None:
    """Return the metrics by which arms can be compared; None if they share none.

    Memory is the allocator's peak. If an arm lacks it, memory is the optimizer state, as the peak of a process mostly
    comes from other code.

    Args:
        alone: Whether only step() was measured.
    """
    if not arms:
        return None
    allocated = all(peak_source(arm) == "allocated" for arm in arms)
    units = {arm.throughput.unit for arm in arms}
    times = ("optimizer_seconds", "step_seconds") if alone else ("step_seconds", "optimizer_seconds")
    for memory in ("peak_memory",) * allocated + ("state_bytes",):
        for speed in ("throughput",) * (len(units) == 1) + times:
            if all(metric_figure(arm, memory) and metric_figure(arm, speed) for arm in arms):
                return Axes(memory=memory, speed=speed, unit=arms[0].throughput.unit)
    return None


def front(points: Sequence[Point], better: float) -> list[Point]:
    """Return the Pareto front of memory and speed, the least memory first.

    Args:
        better: 1 if a larger figure is faster, -1 if a smaller figure is faster.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.memory, -better * p.speed.value)):
        if not best or better * point.speed.value > better * best[-1].speed.value:
            best.append(point)
    return best


def draw_benchmark(result: BenchmarkResult, file: Path) -> None:
    """Draw a result of `optadvise bench`.

    Raises:
        CannotRunHereError: No metric can be drawn.
    """
    missing = [arm.label for arm in result.arms if arm.status != "ok"]
    _draw_arms(_list_ok(result), _Conditions.of(result), missing, file)


def draw_sweep(result: SweepResult, file: Path) -> None:
    """Draw the measured cells of a sweep, each labelled with its optimizer and its varied options.

    Raises:
        CannotRunHereError: No cell was measured.
    """
    arms = [
        replace(cell.arm, label=" ".join([cell.optimizer, *cell.options.values()]))
        for cell in result.cells
        if cell.arm is not None and cell.arm.status == "ok"
    ]
    if not arms or result.environment is None:
        raise CannotRunHereError(
            f"--plot {str(file)!r}: no cell of the sweep was measured, nothing to draw",
            code=ErrorCode.NOTHING_MEASURED,
            option="--plot",
            value=str(file),
        )
    options, environment = result.options, result.environment
    conditions = _Conditions(
        workload=options.get("workload", "transformer"),
        dtype=options.get("dtype"),
        device=environment.device_name or environment.processor,
        optimizer_only=options.get("optimizer_only") == "true",
    )
    _draw_arms(arms, conditions, [], file)


class _Conditions(Struct, frozen=True):
    """Conditions in the subtitle of a plot."""

    workload: str
    dtype: str | None  # None if it varies
    device: str
    optimizer_only: bool

    @classmethod
    def of(cls, result: BenchmarkResult) -> _Conditions:
        """Return the conditions of a result."""
        spec, environment = result.spec, result.environment
        device = environment.device_name or environment.processor or spec.device
        return cls(spec.workload, spec.dtype, device, spec.optimizer_only)

    def describe(self) -> str:
        """Return the conditions as text."""
        workload = "step() only" if self.optimizer_only else self.workload
        return ", ".join(part for part in (workload, self.dtype, self.device) if part)


def _draw_arms(arms: Sequence[ArmResult], conditions: _Conditions, missing: Sequence[str], file: Path) -> None:
    axes = _choose_axes(arms, conditions, file)
    points = _points(arms, axes)
    picture = figures.make_figure(9.5, 5.6)
    plot = picture.add_subplot()
    xs = _apart(points)
    _front(plot, points, xs, axes)
    for number, (point, x) in enumerate(zip(points, xs, strict=True)):
        _place(plot, point, x, number)
    is_shifted = any(x != point.memory for x, point in zip(xs, points, strict=True))
    note = "; arms with equal memory are drawn next to each other" if is_shifted else ""
    _finish(plot, axes, points, f"{conditions.describe()}{note}", missing)
    figures.save_figure(picture, file)


def draw_comparison(base: BenchmarkResult, new: BenchmarkResult, names: tuple[str, str], file: Path) -> None:
    """Draw two results of `optadvise bench`: each arm hollow in the first and filled in the second.

    Raises:
        CannotRunHereError: No metric can be drawn.
    """
    base_arms, new_arms = ({arm.label: arm for arm in _list_ok(result)} for result in (base, new))
    shared = [label for label in new_arms if label in base_arms]
    before, after = ([arms[label] for label in shared] for arms in (base_arms, new_arms))
    axes = _choose_axes([*before, *after], _Conditions.of(new), file)
    pairs = [point for pair in zip(_points(before, axes), _points(after, axes), strict=True) for point in pair]
    picture = figures.make_figure(9.5, 5.6)
    plot = picture.add_subplot()
    xs = [point.memory for point in pairs]  # not shifted: a shift would look like a change
    _front(plot, pairs[1::2], xs[1::2], axes)
    for number in range(len(shared)):
        (before_point, after_point), (x0, x1) = pairs[2 * number : 2 * number + 2], xs[2 * number : 2 * number + 2]
        _place(plot, before_point, x0, number, hollow=True)
        _place(plot, after_point, x1, number)
        arrow = {"arrowstyle": "->", "color": figures.line_style(number)["color"], "linewidth": 1.2, "linestyle": ":"}
        plot.annotate("", (x1, after_point.speed.value), (x0, before_point.speed.value), arrowprops=arrow)
    labels = dict.fromkeys(arm.label for result in (base, new) for arm in result.arms)
    missing = [label for label in labels if label not in shared]
    _finish(plot, axes, pairs, _describe_pair(base, new, names), missing)
    figures.save_figure(picture, file)


def _describe_pair(base: BenchmarkResult, new: BenchmarkResult, names: tuple[str, str]) -> str:
    before, after = _Conditions.of(base).describe(), _Conditions.of(new).describe()
    base_name, new_name = (Path(name).name for name in names)
    if before == after:
        return f"hollow: {base_name}, filled: {new_name}; {after}"
    return f"different conditions: hollow: {base_name}, {before}; filled: {new_name}, {after}"


def _list_ok(result: BenchmarkResult) -> list[ArmResult]:
    return [arm for arm in result.arms if arm.status == "ok"]


def _choose_axes(arms: Sequence[ArmResult], conditions: _Conditions, file: Path) -> Axes:
    axes = axes_of(arms, alone=conditions.optimizer_only)
    if axes is None:
        raise CannotRunHereError(
            f"--plot {str(file)!r}: not all optimizers have a measured speed and memory, nothing to draw",
            code=ErrorCode.NOTHING_MEASURED,
            option="--plot",
            value=str(file),
        )
    return axes


def _points(arms: Iterable[ArmResult], axes: Axes) -> list[Point]:
    """Return the points of arms, times in milliseconds."""
    scale = 1.0 if axes.speed == "throughput" else 1e3
    points = []
    for arm in arms:
        speed, memory = metric_figure(arm, axes.speed), metric_value(arm, axes.memory)
        if speed is not None and memory is not None:
            interval = None if speed.interval is None else speed.interval.scaled(scale)
            points.append(Point(label=arm.label, memory=memory, speed=Figure(speed.value * scale, interval)))
    return points


def _apart(points: Sequence[Point]) -> list[float]:
    """Return the x of each point: points of equal memory are drawn apart, so that all intervals are visible."""
    span = max(p.memory for p in points) - min(p.memory for p in points) or max(p.memory for p in points) or 1.0
    xs = []
    for number, point in enumerate(points):
        alike = [n for n, other in enumerate(points) if abs(other.memory - point.memory) < _ALIKE * span]
        xs.append(point.memory + alike.index(number) * _APART * span)
    return xs


def _front(plot: Any, points: Sequence[Point], places: Sequence[float], axes: Axes) -> None:
    """Draw the Pareto front."""
    best = front(points, axes.better)
    max_memory = max(p.memory for p in points)
    xs, ys = [*(p.memory for p in best), max_memory], [p.speed.value for p in (*best, best[-1])]
    label = f"Pareto front: {best[0].label}" if len(best) == 1 else "Pareto front"
    plot.step(xs, ys, where="post", color="#7c8894", linewidth=1.3, linestyle=(0, (4, 3)), zorder=1, label=label)
    for point, x in zip(points, places, strict=True):
        if point in best:
            plot.plot([x], [point.speed.value], marker="o", markersize=19, color="#7c8894", fillstyle="none", zorder=1)


def _place(plot: Any, point: Point, x: float, number: int, *, hollow: bool = False) -> None:
    style, value, interval = figures.line_style(number), point.speed.value, point.speed.interval
    ends = None if interval is None else [[value - interval.low], [interval.high - value]]
    plot.errorbar(
        [x], [value], yerr=ends, color=style["color"], marker=style["marker"], markersize=9, capsize=4,
        linestyle="none", elinewidth=1.6, zorder=3, clip_on=False,
        markerfacecolor="white" if hollow else style["color"], label="_" if hollow else point.label,
    )  # fmt: skip


def _finish(plot: Any, axes: Axes, points: Sequence[Point], about: str, missing: Sequence[str]) -> None:
    max_memory = max(p.memory for p in points)
    size, unit = next(
        ((s, u) for s, u in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if max_memory >= s), (1, "bytes")
    )
    memory = {"peak_memory": "peak memory (allocator)", "state_bytes": "optimizer state"}[axes.memory]
    speed = {"throughput": axes.unit, "step_seconds": "training step, ms", "optimizer_seconds": "optimizer step, ms"}[
        axes.speed
    ]
    goal = "up and left is better" if axes.better > 0 else "down and left is better"
    figures.set_title(plot, "Memory against speed", f"{about}; {goal}")
    spread = " (95 % interval)" if any(point.speed.interval is not None for point in points) else ""
    figures.label_axes(plot, f"{memory}, {unit}", f"{speed}{spread}")
    span = max_memory - min(p.memory for p in points) or max_memory or 1.0
    plot.set_xlim(max(0.0, min(p.memory for p in points) - 0.1 * span), max_memory + 0.14 * span)
    ticks = [tick for tick in figures.list_ticks(plot.get_xlim()[0] / size, plot.get_xlim()[1] / size) if tick >= 0]
    plot.set_xticks([tick * size for tick in ticks], [f"{tick:g}" for tick in ticks])
    if axes.speed == "throughput":
        figures.format_axis(plot.yaxis, lambda value: show_count(value) if value > 0 else f"{value:g}")
    plot.margins(y=0.12)
    plot.set_ylim(bottom=max(0.0, plot.get_ylim()[0]))
    figures.add_legend(plot)
    if missing:
        note = fill(f"Not drawn (not measured): {', '.join(missing)}", 110)
        plot.annotate(note, (0, 0), (0, -46), xycoords="axes fraction", ha="left", va="top",
                      textcoords="offset points", fontsize=9, color="#55606c")  # fmt: skip
