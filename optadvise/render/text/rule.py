"""A rule as text: conditions, outcome, reason, tests and sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape

from optadvise.core.advice_records import Support
from optadvise.core.cards import SHIPPED, UNKNOWN, Value
from optadvise.core.errors import shorten_location
from optadvise.core.findings import ClaimFinding, Evidence
from optadvise.core.json_text import JsonObject
from optadvise.render import evidence, headings
from optadvise.render.labels import NOT_SPECIFIED, format_choice, format_sentence
from optadvise.render.recommendation import describe_support
from optadvise.render.rules import find_reason
from optadvise.render.text.catalog import print_bullets, print_sources
from optadvise.render.text.console import Page, format_heading, print_labelled, print_rows, print_section
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.condition_text import format_condition
from optadvise.rulebase.hyperparameters import format_value
from optadvise.rulebase.records import Condition, Fact
from optadvise.rulebase.table_records import Rule

_STEP_REASONS = ("because", "cite", "at")  # not part of what a step computes


def print_rule(rule: Rule, catalog: Catalog, claims: Sequence[ClaimFinding], support: Support | None = None) -> None:
    """Print a rule.

    Args:
        claims: Claims that support the rule and were decided on this machine.
        support: Published runs behind it; None if there are none.
    """
    overriding = [
        f"{other.id}{_format_difference(other, rule, catalog.facts)}"
        for other in catalog.base.tables[rule.table].rules if rule.id in other.overrides
    ]  # fmt: skip
    facts = catalog.facts
    tests = (f"{_format_facts(test.given, facts)} → {_format_facts(test.expect, facts)}" for test in rule.tests)
    reason = find_reason(rule, claims)
    with Page() as out:
        out.print(f"[bold]{rule.id}[/bold]  {rule.name}, table {rule.table}")
        layer = "" if rule.layer == SHIPPED else f", from {rule.layer}"
        out.print(f"[dim]{escape(shorten_location(rule.at) + layer)}[/dim]")
        out.print(format_heading("When"))
        if rule.when:
            conditions = [
                (facts[fact].title, escape(_format_when(facts[fact], condition)))
                for fact, condition in rule.when.items()
            ]
            print_rows(out, conditions, "left", "wrap")
        else:
            out.print("  no other rule applies")
        out.print(format_heading("Then"))
        print_rows(out, _list_outcomes(rule.outcome, facts), "left", "wrap")
        if reason is not None:
            print_section(out, headings.WHY, [(escape(format_sentence(reason)),)], "wrap")
        if support is not None:
            out.print(f"\n{describe_support(support)}")
        print_bullets(out, headings.MEASURED, evidence.list_sentences(Evidence(claims=tuple(claims))))
        if rule.overrides:
            out.print(f"\nOverrides {', '.join(rule.overrides)}.")
        if overriding:
            out.print()
            print_labelled(out, [("Overridden by", escape("; ".join(overriding)))])
        print_bullets(out, "Tests", tests)
        print_sources(out, rule.cite, catalog)


def _format_when(fact: Fact, condition: Condition) -> str:
    """Return the values that a condition accepts; choices of a derived fact with their meanings."""
    if fact.values is None:
        return format_condition([NOT_SPECIFIED if value == UNKNOWN else value for value in condition])
    return ", ".join(NOT_SPECIFIED if value == UNKNOWN else format_choice(fact, str(value)) for value in condition)


def _format_difference(other: Rule, rule: Rule, facts: Mapping[str, Fact]) -> str:
    """Return the conditions of another rule that differ from those of a rule: ` with --shard zero2, zero3`."""
    conditions = [
        f"{facts[fact].title} {_format_when(facts[fact], condition)}"
        for fact, condition in other.when.items() if condition != rule.when.get(fact)
    ]  # fmt: skip
    return f" with {' and '.join(conditions)}" if conditions else ""


def _list_outcomes(outcomes: JsonObject, facts: Mapping[str, Fact]) -> Iterator[tuple[str, str]]:
    for name, value in outcomes.items():
        if isinstance(value, Mapping):
            for number, (key, text) in enumerate(value.items()):
                yield "" if number else name, escape(f"{key}: {text}")
        elif name == "steps":
            for number, step in enumerate(value):
                yield "" if number else name, escape(_format_step(step))
        else:
            text = format_choice(facts[name], str(value)) if name in facts else str(value)
            yield _name_fact(name, facts), escape(text)


def _format_step(step: Mapping[str, Value]) -> str:
    """Return an adjustment as in its file, without its reason and sources."""
    return ", ".join(
        f"{key}: {format_value(value)}" for key, value in step.items() if value is not None and key not in _STEP_REASONS
    )


def _format_facts(values: Mapping[str, Value], facts: Mapping[str, Fact]) -> str:
    return ", ".join(
        f"{_name_fact(name, facts)} {NOT_SPECIFIED if value in (None, UNKNOWN) else format_value(value)}"
        for name, value in values.items()
    )


def _name_fact(name: str, facts: Mapping[str, Fact]) -> str:
    """Return the title of a fact; the names of other values of rules as they are."""
    return facts[name].title if name in facts else name
