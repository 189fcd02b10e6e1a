"""Hyperparameters: a value is set, then scaled, then clamped, and every step is written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import exp, floor, log, log10

from msgspec import UNSET, Struct

from optadvise.core.cards import FactValue, Step, Value
from optadvise.core.records import AdvisedHyperparameter, HyperparameterStep
from optadvise.core.units import show_number
from optadvise.rulebase.table_records import Rule


class RuleStep(Struct, frozen=True):
    """A step that adjusts a hyperparameter, and whose it is."""

    rule: str  # or the optimizer, for a step of its card
    layer: str
    step: Step


class Draft:
    """A hyperparameter in the making."""

    __slots__ = ("derivation", "high", "low", "name", "value")

    def __init__(
        self, name: str, value: Value, low: float | None, high: float | None, first: HyperparameterStep
    ) -> None:
        """Start with a value and how it came to be."""
        self.name = name
        self.value = value
        self.low = low
        self.high = high
        self.derivation = [first]

    def finished(self) -> AdvisedHyperparameter:
        """Return the frozen result."""
        return AdvisedHyperparameter(
            name=self.name, value=self.value, low=self.low, high=self.high, derivation=tuple(self.derivation)
        )


def two_digits(value: float) -> float:
    """Round to two significant digits, as rates are written.

    Example:
        >>> two_digits(0.00023712)
        0.00024
    """
    if value == 0:
        return 0.0
    return round(value, 1 - floor(log10(abs(value))))


def interpolate(points: Sequence[Sequence[float]], at: float) -> float:
    """Interpolate on log-log axes between points, holding the first and last value outside.

    Args:
        points: Pairs of x and y, both above zero, by rising x.

    Example:
        >>> round(interpolate([[1, 1], [100, 10]], 10), 3)
        3.162
    """
    if at <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1:
            fraction = log(at / x0) / log(x1 / x0)
            return exp(log(y0) + fraction * (log(y1) - log(y0)))
    return points[-1][1]


def set_by(rule: Rule, name: str, facts: Mapping[str, FactValue]) -> Draft:
    """Start a hyperparameter from a rule of a `set` table.

    Args:
        facts: The situation's facts, for a value that lies along one.
    """
    then = rule.number
    value: Value = None if then.value is UNSET else then.value
    low, high = then.low, then.high
    if then.along is not None:
        at = facts[then.along]
        assert isinstance(at, (int, float)), "validated"
        value = middle = two_digits(interpolate(then.points, at))
        low, high = two_digits(middle / then.spread), two_digits(middle * then.spread)
    entry = HyperparameterStep(
        step=f"set {written(value)}", value=value, rule=rule.id, because=rule.because, cite=rule.cite, layer=rule.layer
    )
    return Draft(name, value, low, high, entry)


def apply(drafts: Mapping[str, Draft], steps: Iterable[RuleStep], facts: Mapping[str, FactValue]) -> None:
    """Apply adjustments in place, scales before clamps.

    Args:
        drafts: Hyperparameters by name; steps for others are passed over.
        facts: The situation's facts, for steps that follow one.
    """
    relevant = [adjustment for adjustment in steps if adjustment.step.parameter in drafts]
    for adjustment in sorted(relevant, key=lambda adjustment: adjustment.step.op == "clamp"):
        step, draft = adjustment.step, drafts[adjustment.step.parameter]
        if not isinstance(draft.value, (int, float)):
            continue
        change = _scale(draft, step, facts) if step.op == "scale" else _clamp(draft, step)
        if change:
            draft.derivation.append(
                HyperparameterStep(
                    step=change,
                    value=draft.value,
                    rule=adjustment.rule,
                    because=step.because,
                    cite=step.cite,
                    layer=adjustment.layer,
                )
            )


def _scale(draft: Draft, step: Step, facts: Mapping[str, FactValue]) -> str | None:
    assert isinstance(draft.value, (int, float))
    if step.by is None:
        factor, change = step.factor or 1.0, f"× {show_number(step.factor or 1.0)}"
    else:
        fact, reference = facts[step.by], step.reference or 1.0
        if fact is None:
            return None
        assert isinstance(fact, (int, float)), "validated"
        counted = min(fact, step.max_value) if step.max_value else fact
        factor = (counted / reference) ** step.exponent
        power = "" if step.exponent == 1 else f"^{step.exponent:g}"
        change = f"× ({counted:g} / {reference:g}){power}"
    draft.low = None if draft.low is None else two_digits(draft.low * factor)
    draft.high = None if draft.high is None else two_digits(draft.high * factor)
    if step.low is not None and step.high is not None:
        draft.low, draft.high = two_digits(draft.value * step.low), two_digits(draft.value * step.high)
    draft.value = two_digits(draft.value * factor)
    return change


def _clamp(draft: Draft, step: Step) -> str | None:
    assert isinstance(draft.value, (int, float))
    low = step.low if step.low is not None else draft.value
    high = step.high if step.high is not None else draft.value
    value = min(max(draft.value, low), high)
    draft.low = None if draft.low is None else min(max(draft.low, low), high)
    draft.high = None if draft.high is None else min(max(draft.high, low), high)
    if value == draft.value:
        return None
    draft.value = value
    return f"clamped to {show_number(low)} … {show_number(high)}"


def written(value: Value) -> str:
    """Render a hyperparameter's value."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, (int, float)):
        return show_number(value)
    if isinstance(value, list):
        return f"({', '.join(written(v) for v in value)})"
    return str(value)
