"""Explanation of a recommendation: the closest rules, and why another optimizer is not recommended."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET, Struct
from msgspec.structs import replace

from optadvise.render.documents import (
    ChangeDocument,
    DecisionDocument,
    MissDocument,
    MissedDocument,
    RecommendationDocument,
    WhyNotDocument,
)
from optadvise.rule_analysis.describe import describe_values
from optadvise.rule_analysis.why_not import TableDecision, WhyNot
from optadvise.rulebase.near_misses import NearMiss
from optadvise.rulebase.tables import Axis


class Explanation(Struct, frozen=True):
    """Additions of `--explain` and `--why-not` to a recommendation."""

    axes: Mapping[str, Axis]
    decisions: tuple[TableDecision, ...] = ()
    why_not: WhyNot | None = None


def describe_miss(miss: NearMiss, axes: Mapping[str, Axis]) -> MissDocument:
    """Return a rule that did not decide, with its missed conditions as text."""
    missed = tuple(
        MissedDocument(
            fact=condition.fact,
            asks=describe_values(condition.accepted, axes[condition.fact], {}),
            actual=describe_values(1 << condition.cell, axes[condition.fact], {}),
        )
        for condition in miss.missed
    )
    return MissDocument(rule=miss.rule.id, missed=missed, beaten_by=miss.beaten_by)


def build_why_not(explanation: Explanation) -> WhyNotDocument | None:
    """Return what keeps another optimizer from being recommended; None if that was not requested."""
    result, axes = explanation.why_not, explanation.axes
    if result is None:
        return None
    return WhyNotDocument(
        optimizer=result.optimizer,
        answer=result.answer,
        refused=result.refused,
        fits=result.fits,
        rows=tuple(describe_miss(miss, axes) for miss in result.rows),
        concerns={concern: describe_miss(miss, axes) for concern, miss in result.concerns.items()},
        beside=result.beside,
        changes=tuple(ChangeDocument(change.facts, change.values, change.effort) for change in result.changes),
    )


def explain(document: RecommendationDocument, explanation: Explanation) -> RecommendationDocument:
    """Return a recommendation's JSON with the requested explanations."""
    decisions = tuple(
        DecisionDocument(
            table=row.table, rule=row.rule, near=tuple(describe_miss(miss, explanation.axes) for miss in row.near)
        )
        for row in explanation.decisions
    )
    return replace(document, explain=decisions or UNSET, why_not=build_why_not(explanation) or UNSET)
