"""Benchmark result as an HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict

from optadvise.benchmark.metrics import metric_figure, metric_value, peak_memory
from optadvise.benchmark.records import ArmResult, BenchmarkResult, Figure, Interval, Throughput, Timing
from optadvise.core.units import show_bytes
from optadvise.render.html import charts
from optadvise.render.html.page import PageOrigin, render_page
from optadvise.render.text.benchmark import conditions, details, figure, measured

_MS = 1e3


def render_benchmark(result: BenchmarkResult, origin: PageOrigin) -> str:
    """Return a benchmark result as a page."""
    return render_page("benchmark.html", {**_list_facts(result), "origin": origin})


def _list_facts(result: BenchmarkResult) -> dict[str, Any]:
    arms = [_arm(number, arm, result) for number, arm in enumerate(result.arms, 1)]
    what, where = conditions(result)
    return {
        "what": what,
        "where": where,
        "names": [arm.optimizer for arm in result.arms if arm.role == "candidate"]
        or [arm.optimizer for arm in result.arms],
        "complete": result.complete,
        "verdict": result.verdict,
        "arms": [arm for arm in arms if arm["ok"]],
        "failed": [arm for arm in arms if not arm["ok"]],
        "details": arms,
        "requirements": [
            {"verdict": r.verdict, "text": r.text, "label": r.label, "measured": measured(r)}
            for r in result.requirements
        ],
        "figure": _figure(result),
        "environment": _flat(asdict(result.environment), "not known"),
        "spec": _flat(asdict(result.spec), "not said"),
    }


def _arm(number: int, arm: ArmResult, result: BenchmarkResult) -> dict[str, Any]:
    used = arm.implementation
    state, peak = arm.state_bytes_per_parameter, peak_memory(arm)
    return {
        "number": number,
        "label": arm.label,
        "ok": arm.status == "ok",
        "status": arm.status,
        "control": arm.role == "control",
        "made": used.path + (f", {used.variant}" if used.variant else ""),
        "kwargs": ", ".join(f"{name} {json.dumps(value)}" for name, value in used.kwargs.items()),
        "lines": list(details(arm, result.spec)),
        "step": _timed(arm.optimizer_seconds),
        "step_ratio": _ratio(result, arm, "optimizer_seconds"),
        "whole": _timed(arm.step_seconds),
        "whole_ratio": _ratio(result, arm, "step_seconds"),
        "throughput": _rate(arm.throughput),
        "state": None if state is None else f"{state:.2f}",
        "peak": None if peak is None else show_bytes(peak),
    }


def _span(interval: Interval | None, scale: float) -> str:
    return "no interval" if interval is None else f"{figure(interval.low, scale)} to {figure(interval.high, scale)}"


def _ends(measured: Figure | None) -> tuple[float, float] | None:
    """Return the ends of a figure's interval, None where it has none."""
    interval = None if measured is None else measured.interval
    return None if interval is None else (interval.low, interval.high)


def _timed(timing: Timing) -> tuple[str, str] | None:
    """Return a time and its interval in milliseconds; None was not measured."""
    if timing.median is None:
        return None
    return figure(timing.median, _MS), _span(timing.ci95, _MS)


def _rate(throughput: Throughput) -> tuple[str, str] | None:
    if throughput.value is None:
        return None
    return f"{figure(throughput.value, 1)} {throughput.unit}", _span(throughput.ci95, 1)


def _ratio(result: BenchmarkResult, arm: ArmResult, metric: str) -> tuple[str, str] | None:
    """Return a ratio to the control and its interval; None where there is none."""
    if arm.role == "control":
        return "1", "the control"
    ratio = result.find_ratio(arm.label, metric)
    return None if ratio is None else (f"{figure(ratio.ratio, 1)}x", _span(ratio.ci95, 1))


def _figure(result: BenchmarkResult) -> dict[str, Any]:
    """Return memory against throughput, or against step()'s time where no whole steps were taken.

    A process's peak is mostly not the optimizer's, so that state is the memory where no allocator counted.
    """
    allocated = all(arm.peak_memory_bytes.allocated for arm in result.arms if arm.status == "ok")
    memory = "peak_memory" if allocated else "state_bytes"
    ok = [(number, arm) for number, arm in enumerate(result.arms, 1) if arm.status == "ok"]
    whole = any(metric_value(arm, "throughput") is not None for _, arm in ok)
    metric = "throughput" if whole else "optimizer_seconds"
    unit = next((arm.throughput.unit for _, arm in ok if whole), "ms")
    scale = 1 if whole else _MS
    arms = [
        charts.ScatterArm(
            number,
            arm.label,
            arm.role == "control",
            metric_value(arm, metric),
            metric_value(arm, memory),
            _ends(metric_figure(arm, metric)),
        )
        for number, arm in ok
    ]
    return {
        "scatter": charts.layout_scatter(arms, lambda value: figure(value, scale)),
        "up": "peak memory" if allocated else "optimizer state",
        "across": f"throughput, {unit}: more is better" if whole else "step() in ms: less is better",
        "missing": [arm.name for arm in arms if arm.across is None or arm.up is None],
    }


def _flat(data: Mapping[str, Any], nothing: str) -> list[tuple[str, str]]:
    """Return names and values in words; packages one by one."""
    rows = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}: {key}", str(inner)) for key, inner in value.items()]
            continue
        rows.append((name.replace("_", " "), nothing if value is None else _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
