"""Benchmark result as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from optadvise.benchmark.metrics import metric_figure, metric_value, peak_memory
from optadvise.benchmark.records import ArmResult, BenchmarkResult, Figure
from optadvise.core.units import show_bytes
from optadvise.render.benchmark import (
    describe_conditions,
    format_figure,
    format_implementation,
    format_interval,
    format_measured,
    format_ratio,
    list_details,
    list_footnotes,
    list_settings,
)
from optadvise.render.environment import list_environment
from optadvise.render.html import charts
from optadvise.render.html.page import PageOrigin, render_page

_MILLISECONDS = 1e3


class Cell(Struct, frozen=True):
    """A figure of the table with its interval."""

    text: str
    interval: str


class ArmRow(Struct, frozen=True):
    """Figures of one optimizer; None if not measured."""

    number: int
    label: str
    is_control: bool
    cells: tuple[Cell | None, ...]
    state: str | None
    peak: str | None


class ScatterFigure(Struct, frozen=True):
    """Data of the plot of memory against speed."""

    scatter: charts.Scatter | None
    up: str
    across: str
    missing: tuple[str, ...]  # optimizers without one of the figures


def render_benchmark(result: BenchmarkResult, origin: PageOrigin) -> str:
    """Return a benchmark result as a page."""
    candidates = [arm.optimizer for arm in result.arms if arm.role == "candidate"]
    context = {
        "result": result,
        "origin": origin,
        "names": candidates or [arm.optimizer for arm in result.arms],
        "conditions": describe_conditions(result),
        "rows": list(_list_rows(result)),
        "footnotes": list(list_footnotes(result)),
        "failed": [arm for arm in result.arms if arm.status != "ok"],
        "details": lambda arm: list(list_details(arm, result.spec)),
        "implementation": format_implementation,
        "repr": repr,
        "measured": format_measured,
        "figure": _make_figure(result),
        "tables": {
            "Environment": list(list_environment(result.environment)),
            "Settings": list(list_settings(result)),
        },
    }
    return render_page("benchmark.html", context)


def _list_rows(result: BenchmarkResult) -> Iterator[ArmRow]:
    for number, arm in enumerate(result.arms, 1):
        if arm.status == "ok":
            state, peak, speed = arm.state_bytes_per_parameter, peak_memory(arm), metric_figure(arm, "throughput")
            cells = (
                _make_cell(metric_figure(arm, "optimizer_seconds"), _MILLISECONDS),
                _make_ratio(result, arm, "optimizer_seconds"),
                _make_cell(metric_figure(arm, "step_seconds"), _MILLISECONDS),
                _make_ratio(result, arm, "step_seconds"),
                _make_cell(speed, 1, f" {arm.throughput.unit}"),
            )
            state_text = None if state is None else f"{state:.2f}"
            peak_text = None if peak is None else show_bytes(peak)
            yield ArmRow(
                number=number,
                label=arm.label,
                is_control=arm.role == "control",
                cells=cells,
                state=state_text,
                peak=peak_text,
            )


def _make_cell(figure: Figure | None, scale: float, unit: str = "") -> Cell | None:
    if figure is None:
        return None
    return Cell(f"{format_figure(figure.value, scale)}{unit}", format_interval(figure.interval, scale))


def _make_ratio(result: BenchmarkResult, arm: ArmResult, metric: str) -> Cell | None:
    """Return a ratio to the control; None if it was not computed."""
    ratio, interval = format_ratio(result, arm, metric)
    return Cell(ratio, interval or "control") if ratio else None


def _make_figure(result: BenchmarkResult) -> ScatterFigure:
    """Return memory against throughput, or against the time of step() if only step() was measured.

    The peak of a process is mostly not the optimizer's, so the state is drawn if the allocator's peak is unknown.
    """
    arms = {number: arm for number, arm in enumerate(result.arms, 1) if arm.status == "ok"}
    has_peak = all(arm.peak_memory_bytes.allocated for arm in arms.values())
    has_throughput = any(arm.throughput.value is not None for arm in arms.values())
    unit = next((arm.throughput.unit for arm in arms.values()), "")
    speed, scale = ("throughput", 1.0) if has_throughput else ("optimizer_seconds", _MILLISECONDS)
    points = []
    for number, arm in arms.items():
        figure, memory = metric_figure(arm, speed), metric_value(arm, "peak_memory" if has_peak else "state_bytes")
        interval = None if figure is None or figure.interval is None else (figure.interval.low, figure.interval.high)
        across = None if figure is None else figure.value
        points.append(
            charts.ScatterArm(
                number=number,
                name=arm.label,
                control=arm.role == "control",
                across=across,
                up=memory,
                interval=interval,
            )
        )
    return ScatterFigure(
        scatter=charts.layout_scatter(points, lambda value: format_figure(value, scale)),
        up="peak memory" if has_peak else "optimizer state",
        across=f"throughput, {unit}: higher is better" if has_throughput else "optimizer step in ms: lower is better",
        missing=tuple(point.name for point in points if point.across is None or point.up is None),
    )
