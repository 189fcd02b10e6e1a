"""Explanation of a recommendation as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from optadvise.render.documents import WhyNotDocument
from optadvise.render.explanation import Explanation, build_why_not, describe_miss
from optadvise.render.labels import format_option
from optadvise.render.text.console import format_heading, print_rows
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.table_records import Rule


def print_near_misses(out: Console, explanation: Explanation) -> None:
    """Print the rules that came nearest to deciding and what each missed; nothing where not requested."""
    if not explanation.decisions:
        return
    out.print(format_heading("What came nearest"))
    rows = [
        (miss.rule.id, escape(f"{_format_outcome(miss.rule)}: {describe_miss(miss, explanation.axes)}"))
        for decision in explanation.decisions
        for miss in decision.near
    ]
    print_rows(out, rows, "left", "wrap")


def _format_outcome(rule: Rule) -> str:
    """Return what a rule would have decided."""
    return next((str(value) for key, value in rule.outcome.items() if key in ("concern", "optimizer", "scheduler")), "")


def print_why_not(out: Console, explanation: Explanation, catalog: Catalog) -> None:
    """Print what keeps an optimizer from being recommended; nothing where not requested."""
    result = build_why_not(explanation)
    if result is not None:
        out.print(format_heading(f"Why not {result.optimizer}"))
        is_answer = result.answer == result.optimizer
        lines = ["It is the answer."] if is_answer else _list_obstacles(result, catalog)
        print_rows(out, [(line,) for line in lines], "wrap")


def _list_obstacles(result: WhyNotDocument, catalog: Catalog) -> Iterator[str]:
    """Yield, as markup, a sentence for each thing that keeps the optimizer from being recommended."""
    if result.refused is not None:
        yield f"It is refused here: {escape(result.refused)}."
    if result.fits is False:
        yield "Training with it is not expected to fit."
    if result.beside is not None:
        yield f"It is named beside {result.answer}: {escape(result.beside)}."
    if not result.rows:
        yield "No rule names it first; it is taken when it is asked for."
    for miss in result.rows:
        yield f"{miss.rule} names it, {escape(str(miss))}."
    for concern, miss in result.concerns.items():
        yield f"The concern {concern} decides by {miss.rule}, which {escape(str(miss))}."
    for change in result.changes:
        options = " and ".join(format_option(catalog, fact, value) for fact, value in change.change.items())
        yield f"The answer with [bold]{escape(options)}[/bold], which was tried."
    if not result.changes:
        yield "No change of up to three facts makes it the answer."
    yield f"Taken anyway with --optimizer {result.optimizer}."
