"""Advice with what was found on this machine beside it, and without what was refuted here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optadvise.domain import Caution, Claim, Evidence, Implementation, Recommendation, TraceEntry
from optadvise.evidence import DEVIATES, FAILS, REFUTED, found

_CHOOSES = "choose_optimizer"  # the table whose row gives the optimizer


def quoted(advice: Recommendation, claims: Callable[[], Mapping[str, Claim]]) -> Recommendation:
    """Return advice with what was found here beside it, and without what was refuted here.

    The choice stays what the rules say, so that it is the same on every machine. A sentence that rests on a refuted
    claim gives way to what was measured, and where it is the reason for the optimizer, that is said first.

    Args:
        advice: The recommendation.
        claims: Returns the claims as they are written now.
    """
    evidence = found(advice.optimizer, claims, advice.implementation)
    fallen = {rule: claim for claim in evidence.refuted for rule in claim["supports"]}
    trace = tuple(_told(entry, fallen) for entry in advice.trace)
    warnings = [warning for warning in advice.warnings if warning.id not in fallen]
    for entry in advice.trace:
        if entry.table == _CHOOSES and entry.rule in fallen:
            claim = fallen[entry.rule]
            other = next((one.id for one in advice.alternatives), None)
            instead = "" if other is None else f" --optimizer {other} takes the first alternative instead."
            text = f"{entry.rule} chose this optimizer for what was refuted here: {claim['claim']}{instead}"
            warnings.append(Caution(f"refuted:{claim['id']}", "warning", text, tuple(claim["cite"])))
    said = {entry.rule for entry in advice.trace}
    telling = tuple(one for one in evidence.claims if one["verdict"] == REFUTED or said & {*one["supports"]})
    return advice._replace(
        trace=trace, warnings=tuple(warnings), evidence=evidence._replace(claims=telling, refuted=())
    )


def deviation(made: Implementation, evidence: Evidence) -> dict[str, Any] | None:
    """Return how an implementation deviates from its paper: as an audit here found, else as its card tells.

    Args:
        made: The implementation.
        evidence: What was found here.
    """
    audit = next((one for one in evidence.audits if one["import"] == made.path), None)
    if audit is not None and audit["verdict"] in (DEVIATES, FAILS):
        return {"basis": "audit", "date": audit["date"], "why": audit["why"]}
    if audit is None and made.deviates is not None:
        told = f"{made.deviates.get('by', '')}: {made.deviates['in']}".lstrip(": ")
        return {"basis": "card", "date": None, "why": told}
    return None


def _told(entry: TraceEntry, fallen: Mapping[str, Mapping[str, Any]]) -> TraceEntry:
    if entry.rule not in fallen:
        return entry
    claim = fallen[entry.rule]
    because = f"refuted here on {claim['date']}: {claim['claim']} {sentence(claim)}"
    return entry._replace(because=because, refuted=claim["id"])


def sentence(claim: Mapping[str, Any]) -> str:
    """Return what was measured of a claim, in a sentence.

    Example:
        >>> sentence({"measures": "state", "measured": 0.5, "ci95": None, "device": "cpu", "holds": "< 0.4"})
        'State: 0.5 on cpu, claimed < 0.4.'
    """
    measures = str(claim["measures"])
    where = f"{figure(claim)} on {claim['device']}"
    return f"{measures[:1].upper()}{measures[1:]}: {where}, claimed {claim['holds']}."


def figure(claim: Mapping[str, Any]) -> str:
    """Return a claim's figure with its interval.

    Example:
        >>> figure({"measured": 1.2668, "ci95": [1.2022, 1.335]})
        '1.27 (1.2 to 1.33)'
    """
    if claim["ci95"] is None:
        return f"{claim['measured']:.3g}"
    low, high = claim["ci95"]
    return f"{claim['measured']:.3g} ({low:.3g} to {high:.3g})"
