"""Explanation of a recommendation as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from optadvise.core.cards import UNKNOWN
from optadvise.render import headings
from optadvise.render.explanation import Explanation
from optadvise.render.labels import NOT_SPECIFIED, describe_choices, format_change
from optadvise.render.text.console import format_heading, print_rows, print_section
from optadvise.rule_analysis.describe import describe_values
from optadvise.rule_analysis.why_not import WhyNot
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.near_misses import MissedCondition, NearMiss, sort_misses
from optadvise.rulebase.table_records import Rule

_CONCERN = "concern"  # fact of the main constraint
_LABELS = {"optimizer": "optimizer", "scheduler": "schedule"}  # of what a rule decides
_MAX_RULES = 5  # of the closest rules


def print_near_misses(out: Console, explanation: Explanation, catalog: Catalog) -> None:
    """Print the rules that came closest to deciding, with the conditions that they missed."""
    misses = sort_misses(miss for decision in explanation.decisions for miss in decision.near)
    rows = [
        (miss.rule.id, escape(f"{_format_outcome(miss.rule, catalog)}: {_format_miss(miss, explanation, catalog)}"))
        for miss in misses[:_MAX_RULES]
    ]
    print_section(out, headings.CLOSEST_RULES, rows, "left", "wrap")


def _format_outcome(rule: Rule, catalog: Catalog) -> str:
    """Return what a rule would have decided."""
    outcome = rule.outcome
    if _CONCERN in outcome:
        return _name_concern(str(outcome[_CONCERN]), catalog)
    return next((f"{_LABELS[key]} {value}" for key, value in outcome.items() if key in _LABELS), "")


def _name_concern(concern: str, catalog: Catalog) -> str:
    fact = catalog.facts[_CONCERN]
    return f"{fact.title} {describe_choices(fact).get(concern, concern)}"


def _format_miss(miss: NearMiss, explanation: Explanation, catalog: Catalog) -> str:
    """Return why a rule did not decide, in terms of options where there are any."""
    if miss.beaten_by is not None:
        return f"applies, but {miss.beaten_by} takes precedence"
    conditions = (_format_condition(condition, explanation, catalog) for condition in miss.missed)
    return f"requires {' and '.join(conditions)}"


def _format_condition(condition: MissedCondition, explanation: Explanation, catalog: Catalog) -> str:
    """Return a condition that is not met: `--method lora (here full)`."""
    fact, axis = catalog.facts[condition.fact], explanation.axes[condition.fact]
    names = {**describe_choices(fact), **({UNKNOWN: NOT_SPECIFIED} if fact.flag else {})}
    required, actual = (describe_values(mask, axis, names) for mask in (condition.accepted, 1 << condition.cell))
    if fact.flag and fact.type == "flag":
        return f"{fact.flag} (here not set)" if required == "true" else f"no {fact.flag} (here set)"
    return f"{fact.title} {required} (here {actual})"


def print_why_not(out: Console, explanation: Explanation, catalog: Catalog) -> None:
    """Print what keeps an optimizer from being recommended; nothing where not requested."""
    result = explanation.why_not
    if result is not None:
        out.print(format_heading(f"Why not {result.optimizer}"))
        is_answer = result.answer == result.optimizer
        lines = ["It is the recommended optimizer."] if is_answer else _list_obstacles(result, explanation, catalog)
        print_rows(out, [(line,) for line in lines], "wrap")


def _list_obstacles(result: WhyNot, explanation: Explanation, catalog: Catalog) -> Iterator[str]:
    """Yield, as markup, a sentence for each reason against the optimizer, and for each change that recommends it.

    Rules that would recommend it, with the conditions that they missed, are included if the decisions are explained.
    """
    if result.refused is not None:
        yield f"The rules exclude it here: {escape(result.refused.rstrip('.'))}."
    if result.fits is False:
        yield "Training with it is not expected to fit."
    if result.beside is not None:
        yield f"It is an alternative to {result.answer}: {escape(result.beside.rstrip('.'))}."
    if explanation.decisions:
        yield from _list_rules(result, explanation, catalog)
    for change in result.changes:
        options = " ".join(
            format_change(catalog, fact, condition, change.values[fact]) for fact, condition in change.facts.items()
        )
        yield f"Recommended with [bold]{escape(options)}[/bold]."
    if result.changes:
        return
    if result.rows:
        yield "No combination of up to three option changes recommends it."
    else:
        yield "No rule recommends it as the first choice, whatever the options."
    yield f"To use it anyway, add --optimizer {result.optimizer}."


def _list_rules(result: WhyNot, explanation: Explanation, catalog: Catalog) -> Iterator[str]:
    """Yield a sentence for each rule that would recommend the optimizer, and for the main constraints they require."""
    for miss in result.rows:
        yield f"{miss.rule.id} recommends it: {escape(_format_miss(miss, explanation, catalog))}."
    for concern, miss in result.concerns.items():
        outcome = _name_concern(concern, catalog)
        yield f"{miss.rule.id} leads to the {outcome}: {escape(_format_miss(miss, explanation, catalog))}."
