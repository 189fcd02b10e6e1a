"""Advice with what was found on this machine beside it, and without what was refuted here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec.structs import replace

from optadvise.core.records import (
    Caution,
    Claim,
    Evidence,
    Implementation,
    LedgerEntry,
    Recommendation,
    TraceEntry,
)
from optadvise.evidence.store import DEVIATES, FAILS, REFUTED, found

_Entry = TypeVar("_Entry", TraceEntry, LedgerEntry)
REFUTED_CHOICE = "refuted:"  # how the ids of warnings begin that a reason fell
_CHOOSES = "choose_optimizer"  # the table whose row gives the optimizer


def quoted(advice: Recommendation, claims: Callable[[], Mapping[str, Claim]]) -> Recommendation:
    """Return advice with what was found here beside it, and without what was refuted here.

    The choice stays what the rules say, so that it is the same on every machine. A sentence that rests on a refuted
    claim gives way to what was measured, and a choice whose reason fell is warned of.

    Args:
        advice: The recommendation.
        claims: Returns the claims as they are written now.
    """
    evidence = found(advice.optimizer, claims, advice.implementation)
    fallen = {rule: claim for claim in evidence.refuted for rule in claim["supports"]}
    numbers = tuple(replace(number, ledger=tuple(_told(entry, fallen) for entry in number.ledger))
                    for number in advice.hyperparameters)  # fmt: skip
    rested = {
        entry.rule: f"no {number.name}" if number.value is None else f"{number.name} of {number.value}"
        for number in advice.hyperparameters for entry in number.ledger
    }  # fmt: skip
    rested |= {entry.rule: "this optimizer" for entry in advice.trace if entry.table == _CHOOSES}
    warnings = [_mended(warning, fallen) for warning in advice.warnings]
    for rule, what in rested.items():
        if rule in fallen:
            claim = fallen[rule]
            other = next((one.id for one in advice.alternatives), None) if what == "this optimizer" else None
            instead = "" if other is None else f" --optimizer {other} takes the first alternative instead."
            text = f"{rule} chose {what} for what was refuted here: {claim['claim']}{instead}"
            warnings.append(Caution(f"{REFUTED_CHOICE}{claim['id']}", "warning", text, tuple(claim["cite"])))
    said = {*rested, *(entry.rule for entry in advice.trace), *(warning.id for warning in advice.warnings)}
    refuted = [one for one in evidence.refuted if one in evidence.claims or said & {*one["supports"]}]
    confirmed = [one for one in evidence.claims if one["verdict"] != REFUTED and said & {*one["supports"]}]
    return replace(
        advice, trace=tuple(_told(entry, fallen) for entry in advice.trace), hyperparameters=numbers,
        warnings=tuple(warnings),
        evidence=replace(evidence, claims=(*refuted, *confirmed), refuted=()),
    )  # fmt: skip


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


def _told(entry: _Entry, fallen: Mapping[str, Mapping[str, Any]]) -> _Entry:
    """Return a row that decided, with what was measured in the place of a reason that was refuted."""
    claim = fallen.get(entry.rule)
    return entry if claim is None else replace(entry, because=refutation(claim), refuted=claim["id"])


def _mended(warning: Caution, fallen: Mapping[str, Mapping[str, Any]]) -> Caution:
    claim = fallen.get(warning.id)
    text = "" if claim is None else refutation(claim)
    return warning if claim is None else replace(warning, text=f"{text[:1].upper()}{text[1:]}")


def refutation(claim: Mapping[str, Any]) -> str:
    """Return that a claim was refuted here, by what and when."""
    return f"refuted here on {claim['date']}: {claim['claim']} {sentence(claim)}"


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
