"""Hyperparameter values: set, scaled and clamped by rules, with a record of every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import exp, floor, log, log10

from msgspec import UNSET, Struct
from msgspec.structs import replace

from optadvise.core.advice_records import AdvisedHyperparameter, HyperparameterStep
from optadvise.core.cards import FactValue, Step, Value
from optadvise.core.units import show_number
from optadvise.rulebase.table_records import Rule


class RuleStep(Struct, frozen=True):
    """Adjustment of a hyperparameter with its origin."""

    rule: str  # id of the rule; for a step of a card, the optimizer
    layer: str
    step: Step


def round_two_digits(value: float) -> float:
    """Round to two significant digits.

    Example:
        >>> round_two_digits(0.00023712)
        0.00024
    """
    if value == 0:
        return 0.0
    return round(value, 1 - floor(log10(abs(value))))


def interpolate(points: Sequence[Sequence[float]], at: float) -> float:
    """Interpolate linearly on log-log axes; outside the points, return the first or last value.

    Args:
        points: Pairs (x, y) above 0 in ascending order of x.

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


def set_by(rule: Rule, name: str, facts: Mapping[str, FactValue]) -> AdvisedHyperparameter:
    """Return the hyperparameter with the value of a rule from a `set` table.

    Args:
        facts: Facts of the situation, for values interpolated along a fact.
    """
    then = rule.number
    value: Value = None if then.value is UNSET else then.value
    low, high, published = then.low, then.high, None
    if then.along is not None:
        at = facts[then.along]
        assert isinstance(at, (int, float)), "validated"
        points = {x: y for x, y, *_ in then.points}
        value = middle = points.get(at) or round_two_digits(interpolate(then.points, at))
        low, high = round_two_digits(middle / then.spread), round_two_digits(middle * then.spread)
        published = round_two_digits(interpolate(then.published, at)) if then.published else None
    entry = HyperparameterStep(
        step=f"set {format_value(value)}",
        value=value,
        rule=rule.id,
        because=rule.because,
        cite=rule.cite,
        layer=rule.layer,
    )
    return AdvisedHyperparameter(name=name, value=value, low=low, high=high, derivation=(entry,), published=published)


def adjust_all(
    numbers: Mapping[str, AdvisedHyperparameter], steps: Iterable[RuleStep], facts: Mapping[str, FactValue]
) -> dict[str, AdvisedHyperparameter]:
    """Return the hyperparameters after all scales and then all clamps.

    Args:
        numbers: Hyperparameters by name; steps for other names are ignored.
        facts: Facts of the situation, for steps that scale by a fact.
    """
    adjusted = dict(numbers)
    for adjustment in sorted(steps, key=lambda adjustment: adjustment.step.op == "clamp"):
        number = adjusted.get(adjustment.step.parameter)
        if number is not None and isinstance(number.value, (int, float)):
            adjusted[number.name] = _adjust(number, number.value, adjustment, facts)
    return {name: _include_published(number) for name, number in adjusted.items()}


def _include_published(number: AdvisedHyperparameter) -> AdvisedHyperparameter:
    """Return a hyperparameter whose range includes the published value."""
    if number.published is None or number.low is None or number.high is None:
        return number
    return replace(number, low=min(number.low, number.published), high=max(number.high, number.published))


def _adjust(
    number: AdvisedHyperparameter, value: float, adjustment: RuleStep, facts: Mapping[str, FactValue]
) -> AdvisedHyperparameter:
    step = adjustment.step
    changed, text = _scale(number, value, step, facts) if step.op == "scale" else _clamp(number, value, step)
    if text is None:
        return changed
    entry = HyperparameterStep(
        step=text,
        value=changed.value,
        rule=adjustment.rule,
        because=step.because,
        cite=step.cite,
        layer=adjustment.layer,
    )
    return replace(changed, derivation=(*changed.derivation, entry))


def _scale(
    number: AdvisedHyperparameter, value: float, step: Step, facts: Mapping[str, FactValue]
) -> tuple[AdvisedHyperparameter, str | None]:
    """Return the scaled hyperparameter and the factor as text; text None if the fact is unknown."""
    if step.by is None:
        factor, text = step.factor or 1.0, f"× {show_number(step.factor or 1.0)}"
    else:
        fact, reference = facts[step.by], step.reference or 1.0
        if fact is None:
            return number, None
        assert isinstance(fact, (int, float)), "validated"
        counted = min(fact, step.max_value) if step.max_value else fact
        factor = (counted / reference) ** step.exponent
        power = "" if step.exponent == 1 else f"^{step.exponent:g}"
        text = f"× ({counted:g} / {reference:g}){power}"
    low, high = (None if end is None else round_two_digits(end * factor) for end in (number.low, number.high))
    if step.low is not None and step.high is not None:
        low, high = round_two_digits(value * step.low), round_two_digits(value * step.high)
    # A fixed factor is that of another optimizer, whose published values are not known.
    published = number.published if step.by is not None or factor == 1 else None
    return replace(number, value=round_two_digits(value * factor), low=low, high=high, published=published), text


def _clamp(number: AdvisedHyperparameter, value: float, step: Step) -> tuple[AdvisedHyperparameter, str | None]:
    """Return the clamped hyperparameter and the range as text; text None if the value is unchanged."""
    low, high = (value if end is None else end for end in (step.low, step.high))
    ends = [None if end is None else min(max(end, low), high) for end in (number.low, number.high)]
    clamped = min(max(value, low), high)
    changed = replace(number, low=ends[0], high=ends[1])
    if clamped == value:
        return changed, None
    return replace(changed, value=clamped), f"clamped to {show_number(low)} to {show_number(high)}"


def format_value(value: Value) -> str:
    """Return a hyperparameter's value as text."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, (int, float)):
        return show_number(value)
    if isinstance(value, list):
        return f"({', '.join(format_value(v) for v in value)})"
    return str(value)
