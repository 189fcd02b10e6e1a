"""Markdown page of the rules: every table with its rules, conditions, reasons and sources."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import Source, Step
from optadvise.core.markdown import Markdown, escape_markdown, format_table
from optadvise.rule_analysis.describe import describe_box
from optadvise.rule_analysis.graph import Graph, draw_flowchart, draw_tables, format_mermaid
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import format_value
from optadvise.rulebase.proofs import count_cells
from optadvise.rulebase.regions import make_box
from optadvise.rulebase.table_records import Rule, WarningText
from optadvise.rulebase.tables import Table

_HIT = {
    "unique": "exactly one rule decides; rules overlap only if one overrides the other",
    "first": "the first rule that applies decides",
    "collect": "all rules that apply are used",
}


def format_rules_page(rules: CompiledRules) -> str:
    """Return the page as Markdown."""
    lines = [
        "# The rules",
        "",
        "Generated from `rules/` by `optadvise rules docs`; do not edit.",
        "",
        *_format_graph(draw_tables(rules)),
        "The guide's flowchart, with the recommendation at each leaf:",
        "",
        *_format_graph(draw_flowchart(rules)),
    ]
    lines += _list_derived_facts(rules.catalog)
    for table in rules.tables.values():
        lines += _list_table(rules, table)
    lines += ["## Sources", "", *(_format_source(source) for source in rules.catalog.sources.values())]
    return "\n".join(lines) + "\n"


def _format_graph(graph: Graph) -> list[str]:
    return ["```mermaid", format_mermaid(graph).rstrip(), "```", ""]


def _list_derived_facts(catalog: Catalog) -> Iterator[str]:
    """Yield the facts without an option: the names that the output uses for them, and the meanings of their values."""
    yield "## Derived facts"
    yield ""
    yield "Conditions also read these facts, which follow from the options and from earlier tables."
    yield ""
    rows = []
    for fact in catalog.facts.values():
        if fact.flag is None:
            meanings = {} if fact.values_from else fact.values or {}
            rows.append((fact.id, fact.title, "; ".join(f"{value}: {text}" for value, text in meanings.items())))
    yield from format_table(("fact", "in the output", "values"), rows)
    yield ""


def _format_source(source: Source) -> str:
    authors = f"{source.authors}, " if source.authors else ""
    year = f", {source.year}" if source.year else ""
    url = f"<{source.url}>" if re.fullmatch(r"https://[^\s<>]+", source.url) else escape_markdown(source.url)
    return f"- **{source.id}**: {escape_markdown(f'{authors}{source.title}{year}')}, {url}"


def _list_table(rules: CompiledRules, table: Table) -> Iterator[str]:
    counts = count_cells(table, rules.axes)
    through = "" if counts.otherwise is None else f"; the last rule decides {counts.otherwise:,} of them"
    yield f"## {table.id}"
    yield ""
    yield f"{escape_markdown(table.about)} *{table.hit_policy}*: {_HIT[table.hit_policy]}."
    yield f"{counts.rows} rules for {counts.cells:,} combinations of values{through}."
    yield ""
    rows = (
        (
            Markdown(f"**{rule.id}** {escape_markdown(rule.name)}"), _describe_when(rules, rule),
            "; ".join(_describe_outcome(rule)), _describe_reason(rule),
        )
        for rule in table.all_rules
    )  # fmt: skip
    yield from format_table(("rule", "when", "then", "because"), rows)
    yield ""


def _describe_when(rules: CompiledRules, rule: Rule) -> str:
    when = describe_box(make_box(rule, rules.axes), rules.axes) if rule.when else "no other rule applies"
    return when + (f"; overrides {', '.join(rule.overrides)}" if rule.overrides else "")


def _describe_reason(rule: Rule) -> str:
    """Return a rule's reason and sources; only the sources for a warning, whose text is the reason."""
    because = "" if isinstance(rule.then, WarningText) else rule.because
    return f"{because} [{', '.join(rule.cite)}]".lstrip()


def _describe_outcome(rule: Rule) -> Iterator[str]:
    """Yield the parts of a rule's outcome as text."""
    for name, value in rule.outcome.items():
        if name == "steps":
            yield from (_describe_step(step) for step in rule.steps)
        elif name == "points":
            yield f"{', '.join(f'{format_value(y)} at {format_value(x)}' for x, y in value)}"
        elif isinstance(value, Mapping):
            yield f"alternatives {', '.join(value)}"
        else:
            yield f"{name} {format_value(value)}"


def _describe_step(step: Step) -> str:
    if step.clamp is not None:
        ends = [
            f"{word} {format_value(end)}" for end, word in ((step.low, "from"), (step.high, "to")) if end is not None
        ]
        return f"clamp {step.clamp} {' '.join(ends)}"
    if step.by is not None:
        power = "" if step.exponent == 1 else f" to the power of {format_value(step.exponent)}"
        limit = "" if step.max_value is None else f", {step.by} at most {format_value(step.max_value)}"
        return f"scale {step.scale} by ({step.by} / {format_value(step.reference)}){power}{limit}"
    return f"scale {step.scale} by {format_value(step.factor)}"
