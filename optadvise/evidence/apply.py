"""Evidence from this machine in a recommendation: adds findings and replaces refuted reasons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias, TypeVar

from msgspec.structs import replace

from optadvise.core.advice_records import AdviceWarning, HyperparameterStep, Recommendation, TraceEntry
from optadvise.core.cards import Implementation
from optadvise.core.findings import DEVIATES, FAILS, REFUTED, ClaimFinding, DeviationFinding, Evidence
from optadvise.core.units import show_figure
from optadvise.evidence.store import find_evidence
from optadvise.rulebase.catalog import Catalog

_Entry = TypeVar("_Entry", TraceEntry, HyperparameterStep)
_Refuted: TypeAlias = "Mapping[str, ClaimFinding]"  # by the id of each rule that cites the claim as its reason
REFUTED_CHOICE = "refuted:"  # prefix of the ids of warnings about refuted reasons
_CHOOSES = "choose_optimizer"  # table that chooses the optimizer
_OPTIMIZER = "this optimizer"
_BOUNDS = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}


def apply_evidence(advice: Recommendation, catalog: Catalog) -> Recommendation:
    """Return a recommendation with the findings from this machine and without refuted reasons.

    The choice does not change, so that it is the same on every machine. A reason whose claim was refuted is replaced
    by the measurement, and a choice with a refuted reason gets a warning.
    """
    evidence = find_evidence(catalog, advice.optimizer, advice.implementation)
    refuted = {rule: claim for claim in evidence.refuted for rule in claim.supports}
    numbers = tuple(
        replace(number, derivation=tuple(_correct_entry(entry, refuted) for entry in number.derivation))
        for number in advice.hyperparameters
    )
    warnings = [_correct_warning(warning, refuted) for warning in advice.warnings]
    return replace(
        advice, trace=tuple(_correct_entry(entry, refuted) for entry in advice.trace), hyperparameters=numbers,
        warnings=(*warnings, *_warn_of_refuted_choices(advice, refuted)),
        evidence=replace(evidence, claims=tuple(_select_claims(advice, evidence)), refuted=()),
    )  # fmt: skip


def _name_choices(advice: Recommendation) -> dict[str, str]:
    """Return the choice of each rule by its id: the optimizer or the value of a hyperparameter."""
    choices = {
        entry.rule: f"no {number.name}" if number.value is None else f"{number.name} {number.value}"
        for number in advice.hyperparameters for entry in number.derivation
    }  # fmt: skip
    return choices | {entry.rule: _OPTIMIZER for entry in advice.trace if entry.table == _CHOOSES}


def _warn_of_refuted_choices(advice: Recommendation, refuted: _Refuted) -> Iterator[AdviceWarning]:
    """Yield a warning for each choice whose reason was refuted on this machine."""
    for rule, choice in _name_choices(advice).items():
        if rule not in refuted:
            continue
        claim = refuted[rule]
        text = f"The reason for {choice} was refuted on this machine: {claim.claim}"
        if choice == _OPTIMIZER and advice.alternatives:
            text += f" Use --optimizer {advice.alternatives[0].id} for the first alternative."
        yield AdviceWarning(id=f"{REFUTED_CHOICE}{claim.id}", level="warning", text=text, cite=claim.cite)


def _select_claims(advice: Recommendation, evidence: Evidence) -> Iterator[ClaimFinding]:
    """Yield the claims about a recommendation: those refuted, then those confirmed that its rules cite."""
    cited = {
        *_name_choices(advice), *(entry.rule for entry in advice.trace), *(warning.id for warning in advice.warnings)
    }  # fmt: skip
    for claim in evidence.refuted:
        if claim in evidence.claims or not cited.isdisjoint(claim.supports):
            yield claim
    for claim in evidence.claims:
        if claim.verdict != REFUTED and not cited.isdisjoint(claim.supports):
            yield claim


def find_deviation(implementation: Implementation, evidence: Evidence) -> DeviationFinding | None:
    """Return the deviation of an implementation from its paper: from an audit on this machine, else from its card."""
    audit = next((audit for audit in evidence.audits if audit.path == implementation.path), None)
    if audit is not None:
        has_deviated = audit.verdict in (DEVIATES, FAILS)
        return DeviationFinding(basis="audit", date=audit.date, why=audit.why) if has_deviated else None
    if implementation.deviates is None:
        return None
    return DeviationFinding(basis="card", date=None, why=implementation.deviates.text)


def _correct_entry(entry: _Entry, refuted: _Refuted) -> _Entry:
    """Return an entry of the trace or a derivation, with a refuted reason replaced by the measurement."""
    claim = refuted.get(entry.rule)
    return entry if claim is None else replace(entry, because=describe_refutation(claim), refuted=claim.id)


def _correct_warning(warning: AdviceWarning, refuted: _Refuted) -> AdviceWarning:
    claim = refuted.get(warning.id)
    if claim is None:
        return warning
    text = describe_refutation(claim)
    return replace(warning, text=f"{text[:1].upper()}{text[1:]}")


def describe_refutation(claim: ClaimFinding) -> str:
    """Return a sentence about a refuted claim with the date and the measurement."""
    return f"refuted on this machine on {claim.date}: {claim.claim} {describe_measurement(claim)}"


def describe_measurement(claim: ClaimFinding) -> str:
    """Return a claim's measurement, such as `State: measured 0.5 on cpu; the claim is below 0.4.`."""
    measures, figure = claim.measures or "", format_figure(claim.measured or 0.0, claim.ci95)
    claimed = format_claimed(claim.expected_range or "")
    return f"{measures[:1].upper()}{measures[1:]}: measured {figure} on {claim.device}; the claim is {claimed}."


def format_claimed(expected_range: str) -> str:
    """Return the range of a claim's figure as text.

    Example:
        >>> format_claimed("[2.99 .. 3.01]"), format_claimed("<= 1.05"), format_claimed("> 1")
        ('2.99 to 3.01', 'at most 1.05', 'above 1')
    """
    text = expected_range.strip("[]()").replace(" .. ", " to ")
    first, _, bound = text.partition(" ")
    return f"{_BOUNDS[first]} {bound}" if first in _BOUNDS else text


def format_figure(value: float, ci95: tuple[float, float] | None) -> str:
    """Return a figure with its confidence interval.

    Example:
        >>> format_figure(1.2668, (1.2022, 1.335))
        '1.27 (1.2 to 1.33)'
    """
    if ci95 is None:
        return show_figure(value)
    low, high = ci95
    return f"{show_figure(value)} ({show_figure(low)} to {show_figure(high)})"
