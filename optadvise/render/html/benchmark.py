"""What a page says of a measurement, as plain data for its template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optadvise.benchmark.spec import metric_of
from optadvise.core.units import show_bytes
from optadvise.render.html import charts
from optadvise.render.text.benchmark import conditions, details, figure, measured

_MS = 1e3


def facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the template says, ready to be written.

    Args:
        result: The result of `optadvise bench`.
    """
    arms = [_arm(number, arm, result) for number, arm in enumerate(result["arms"], 1)]
    what, where = conditions(result)
    return {
        "what": what,
        "where": where,
        "names": [arm["optimizer"] for arm in result["arms"] if arm["role"] == "candidate"]
        or [arm["optimizer"] for arm in result["arms"]],
        "complete": result["complete"],
        "verdict": result["verdict"],
        "arms": [arm for arm in arms if arm["ok"]],
        "failed": [arm for arm in arms if not arm["ok"]],
        "details": arms,
        "requirements": [
            {"verdict": r["verdict"], "text": r["text"], "label": r["label"], "measured": measured(r)}
            for r in result["requirements"]
        ],
        "figure": _figure(result),
        "environment": _flat(result["environment"], "not known"),
        "spec": _flat(result["spec"], "not said"),
    }


def _arm(number: int, arm: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    made = arm["implementation"]
    state, peak = arm["state_bytes_per_parameter"], metric_of(arm, "peak_memory")
    return {
        "number": number,
        "label": arm["label"],
        "ok": arm["status"] == "ok",
        "status": arm["status"],
        "control": arm["role"] == "control",
        "made": made["import"] + (f", {made['variant']}" if made["variant"] else ""),
        "kwargs": ", ".join(f"{name} {json.dumps(value)}" for name, value in made["kwargs"].items()),
        "lines": list(details(arm, result["spec"])),
        "step": _timed(arm["optimizer_seconds"]),
        "step_ratio": _ratio(result, arm, "optimizer_seconds"),
        "whole": _timed(arm["step_seconds"]),
        "whole_ratio": _ratio(result, arm, "step_seconds"),
        "throughput": _rate(arm["throughput"]),
        "state": None if state is None else f"{state:.2f}",
        "peak": None if peak is None else show_bytes(peak),
    }


def _span(ends: Sequence[float] | None, scale: float) -> str:
    return "no interval" if not ends else f"{figure(ends[0], scale)} to {figure(ends[1], scale)}"


def _timed(found: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a time and its interval in milliseconds; None was not measured."""
    if found["median"] is None:
        return None
    return figure(found["median"], _MS), _span(found["ci95"], _MS)


def _rate(found: Mapping[str, Any]) -> tuple[str, str] | None:
    if found["value"] is None:
        return None
    return f"{figure(found['value'], 1)} {found['unit']}", _span(found["ci95"], 1)


def _ratio(result: Mapping[str, Any], arm: Mapping[str, Any], metric: str) -> tuple[str, str] | None:
    """Return a ratio to the control and its interval; None where there is none."""
    if arm["role"] == "control":
        return "1", "the control"
    found = next((r for r in result["ratios"] if r["label"] == arm["label"] and r["metric"] == metric), None)
    return None if found is None else (f"{figure(found['ratio'], 1)}x", _span(found["ci95"], 1))


def _figure(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return memory against throughput, or against step()'s time where no whole steps were taken.

    A process's peak is mostly not the optimizer's, so that state is the memory where no allocator counted.
    """
    allocated = all(
        (arm.get("peak_memory_bytes") or {}).get("allocated") for arm in result["arms"] if arm["status"] == "ok"
    )
    memory = "peak_memory" if allocated else "state_bytes"
    ok = [(number, arm) for number, arm in enumerate(result["arms"], 1) if arm["status"] == "ok"]
    whole = any(metric_of(arm, "throughput") is not None for _, arm in ok)
    metric = "throughput" if whole else "optimizer_seconds"
    unit = next((arm["throughput"]["unit"] for _, arm in ok if whole), "ms")
    scale = 1 if whole else _MS
    arms = [
        charts.Arm(
            number,
            arm["label"],
            arm["role"] == "control",
            metric_of(arm, metric),
            metric_of(arm, memory),
            arm[metric]["ci95"],
        )
        for number, arm in ok
    ]
    return {
        "scatter": charts.scatter(arms, lambda value: figure(value, scale)),
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
