"""One result of several that were measured one after the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optadvise.benchmark.comparison.comparability import hardware
from optadvise.benchmark.results import PARTS
from optadvise.benchmark.spec import metric_of
from optadvise.core.errors import InputError, RuleFileError


def merged(results: Sequence[tuple[str, Mapping[str, Any]]], control: str) -> dict[str, Any]:
    """Return one result with the arms of all, and their ratios to the control among them.

    The ratios have no interval: what was measured at different times shares no drift that could cancel.

    Args:
        results: The name of each file, and what it holds.
        control: The optimizer that the others are compared with, where it is among them.

    Raises:
        InputError: Two have different conditions or hardware, or an arm of the same label.
    """
    for name, result in results:
        if not (result["arms"] and isinstance(result.get("spec"), Mapping) and "environment" in result):
            raise RuleFileError("is no whole result; make it with optadvise bench --json FILE", name)
    name, base = results[0]
    arms: list[dict[str, Any]] = []
    for other, result in results:
        differ = [key for key, value in base["spec"].items() if result["spec"].get(key) != value]
        if differ:
            was, now = base["spec"][differ[0]], result["spec"].get(differ[0])
            raise InputError(f"--merge {other}: has {differ[0]} {now} where {name} has {was}; merge what is alike")
        of = hardware(base["spec"])
        was, now = (one["environment"].get(of) for one in (base, result))
        if was != now:
            raise InputError(f"--merge {other}: was measured on {now} and {name} on {was}; merge what is alike")
        for arm in result["arms"]:
            if any(arm["label"] == one["label"] for one in arms):
                raise InputError(f"--merge {other}: has {arm['label']} again; leave one of them out")
            arms.append({**arm, "role": "control" if arm["optimizer"] == control else "candidate"})
    against = next((arm for arm in arms if arm["role"] == "control" and arm["status"] == "ok"), None)
    ratios = [] if against is None else [
        {"optimizer": arm["optimizer"], "label": arm["label"], "versus": against["optimizer"], "metric": metric,
         "ratio": ours / theirs, "ci95": None}
        for arm in arms if arm is not against and arm["status"] == "ok"
        for metric in (*(f"{part}_seconds" for part in PARTS), "throughput", "state_bytes",
                       "state_bytes_per_parameter", "peak_memory")
        if (ours := metric_of(arm, metric)) is not None and (theirs := metric_of(against, metric))
    ]  # fmt: skip
    packages = {key: value for _, result in results for key, value in result["environment"].get("packages", {}).items()}
    return {
        **base, "environment": {**base["environment"], "packages": packages}, "arms": arms, "ratios": ratios,
        "complete": all(result["complete"] for _, result in results), "requirements": [], "verdict": None,
    }  # fmt: skip
