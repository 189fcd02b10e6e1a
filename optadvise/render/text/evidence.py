"""What was found on this machine, in sentences for every kind of page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optadvise.core.records import Evidence, Implementation
from optadvise.core.units import show_bytes, show_count
from optadvise.evidence.apply import deviation, figure, sentence
from optadvise.evidence.store import QUANTISED, REFUTED

HEADING = "Found on this machine"
_PEAKS = (("allocated", " at the peak"), ("process", " of the whole process"))  # what is known best first


def deviates(made: Implementation, evidence: Evidence) -> str | None:
    """Return how an implementation deviates, and who says so; None where it is not known to."""
    found = deviation(made, evidence)
    if found is None:
        return None
    who = "as its card tells" if found["basis"] == "card" else f"as an audit here found on {found['date']}"
    return f"deviates, {who}: {found['why']}"


def lines(evidence: Evidence) -> list[str]:
    """Return a sentence for everything that was found."""
    return [*map(_audit, evidence.audits), *map(_bench, evidence.benches), *map(_claim, evidence.claims)]


def _audit(audit: Mapping[str, Any]) -> str:
    why = f": {audit['why']}" if audit["why"] else ""
    verdict = audit["verdict"] if audit["verdict"] != QUANTISED else f"conforms {QUANTISED}"
    return f"{audit['import']} {verdict}{why} (audit of {audit['date']})"


def _bench(bench: Mapping[str, Any]) -> str:
    shown = []
    if bench["ratio"] is not None:
        ratio = figure({"measured": bench["ratio"], "ci95": bench["ci95"]})
        shown.append(f"its step took {ratio} times {bench['versus']}'s")
    elif bench["optimizer_seconds"] is not None:
        shown.append(f"its step took {1e3 * bench['optimizer_seconds']:.3g} ms")
    if bench["state_bytes_per_parameter"] is not None:
        shown.append(f"{bench['state_bytes_per_parameter']:.2f} bytes of state per parameter")
    peak = bench["peak_memory_bytes"]
    held = [show_bytes(peak[name]) + words for name, words in _PEAKS if peak.get(name) is not None]
    shown += held[:1]
    size = "" if bench["parameters"] is None else f" of {show_count(bench['parameters'])} parameters"
    return (
        f"{', '.join(shown)}: {bench['workload']}{size}, {bench['dtype']}, {bench['device']} (bench of {bench['date']})"
    )


def _claim(claim: Mapping[str, Any]) -> str:
    """Return a claim that was refuted with all that speaks against it, one that was confirmed with its figure alone."""
    if claim["verdict"] != REFUTED:
        return f"confirmed: {claim['claim']} {figure(claim)} on {claim['device']} (tested on {claim['date']})"
    quote = f" {claim['cite'][0]} says: “{claim['says']}”" if claim["says"] else ""
    return f"refuted: {claim['claim']} {sentence(claim)}{quote} (tested on {claim['date']})"
