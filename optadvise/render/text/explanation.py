"""Explanation of a recommendation as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from optadvise.render import headings
from optadvise.render.documents import MissDocument, WhyNotDocument
from optadvise.render.explanation import Explanation, build_why_not, describe_miss
from optadvise.render.labels import format_option
from optadvise.render.text.console import format_heading, print_rows, print_section
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.table_records import Rule


def print_near_misses(out: Console, explanation: Explanation, catalog: Catalog) -> None:
    """Print the rules that came closest to deciding, with the conditions that they missed."""
    rows = [
        (
            miss.rule.id,
            escape(f"{_format_outcome(miss.rule)}: {_format_miss(describe_miss(miss, explanation.axes), catalog)}"),
        )
        for decision in explanation.decisions
        for miss in decision.near
    ]
    print_section(out, headings.CLOSEST_RULES, rows, "left", "wrap")


def _format_outcome(rule: Rule) -> str:
    """Return what a rule would have decided."""
    return next((str(value) for key, value in rule.outcome.items() if key in ("concern", "optimizer", "scheduler")), "")


def _format_miss(miss: MissDocument, catalog: Catalog) -> str:
    """Return why a rule did not decide, in terms of options where there are any."""
    if miss.beaten_by is not None:
        return f"applies, but {miss.beaten_by} takes precedence"
    flags = {fact.id: fact.flag for fact in catalog.facts.values() if fact.flag}
    return "requires " + " and ".join(
        f"{flags.get(missed.fact, missed.fact + ' =')} {missed.asks} (here {missed.actual})" for missed in miss.missed
    )


def print_why_not(out: Console, explanation: Explanation, catalog: Catalog) -> None:
    """Print what keeps an optimizer from being recommended; nothing where not requested."""
    result = build_why_not(explanation)
    if result is not None:
        out.print(format_heading(f"Why not {result.optimizer}"))
        is_answer = result.answer == result.optimizer
        with_rules = bool(explanation.decisions)
        lines = ["It is the recommended optimizer."] if is_answer else _list_obstacles(result, catalog, with_rules)
        print_rows(out, [(line,) for line in lines], "wrap")


def _list_obstacles(result: WhyNotDocument, catalog: Catalog, with_rules: bool) -> Iterator[str]:
    """Yield, as markup, a sentence for each reason against the optimizer, and for each change that recommends it.

    Args:
        with_rules: Whether to include the rules that would recommend it, with the conditions that they missed.
    """
    if result.refused is not None:
        yield f"The rules exclude it here: {escape(result.refused.rstrip('.'))}."
    if result.fits is False:
        yield "Training with it is not expected to fit."
    if result.beside is not None:
        yield f"It is an alternative to {result.answer}: {escape(result.beside.rstrip('.'))}."
    if not result.rows:
        yield "No rule recommends it first; --optimizer selects it."
    for miss in result.rows if with_rules else ():
        yield f"{miss.rule} recommends it: {escape(_format_miss(miss, catalog))}."
    for concern, miss in result.concerns.items() if with_rules else ():
        yield f"{miss.rule} would make {concern} the deciding concern: {escape(_format_miss(miss, catalog))}."
    for change in result.changes:
        options = " ".join(format_option(catalog, fact, value) for fact, value in change.values.items())
        yield f"Recommended with [bold]{escape(options)}[/bold] (verified)."
    if not result.changes:
        yield "No combination of up to three option changes recommends it."
    yield f"Force it with --optimizer {result.optimizer}."
