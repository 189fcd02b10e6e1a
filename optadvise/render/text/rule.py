"""A rule as text: conditions, outcome, reason, tests and sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape

from optadvise.core.errors import near
from optadvise.core.findings import REFUTED, ClaimFinding, Evidence
from optadvise.core.records import SHIPPED
from optadvise.evidence.apply import describe_refutation
from optadvise.render import evidence
from optadvise.render.text.catalog import print_bullets, print_sources
from optadvise.render.text.console import Page, format_heading, print_rows, print_section
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import written


def replace_refuted_reason(row: Mapping[str, Any], claims: Sequence[ClaimFinding]) -> Mapping[str, Any]:
    """Return a rule whose reason was refuted here with what was measured instead; any other rule as it is."""
    refuted = next((claim for claim in claims if claim.verdict == REFUTED), None)
    return row if refuted is None or "because" not in row else {**row, "because": describe_refutation(refuted)}


def print_rule(row: Mapping[str, Any], catalog: Catalog, claims: Sequence[ClaimFinding]) -> None:
    """Print a rule.

    Args:
        row: The rule's document.
        catalog: Source of cites and of the rules beside it.
        claims: Claims that the rule repeats and that were decided here.
    """
    rows = catalog.documents["tables"][row["table"]]["rules"]
    overriding = [other["id"] for other in rows if row["id"] in other.get("overrides", ())]
    tests = (f"{_format_facts(test['given'])} → {_format_facts(test['expect'])}" for test in row.get("tests", ()))
    with Page() as out:
        out.print(f"[bold]{row['id']}[/bold]  {row.get('name', 'otherwise')}, in table {row['table']}")
        layer = "" if row["layer"] == SHIPPED else f", from {row['layer']}"
        out.print(f"[dim]{escape(near(row['at']) + layer)}[/dim]")
        out.print(format_heading("When"))
        if row.get("when"):
            conditions = [(fact, escape(_format_condition(condition))) for fact, condition in row["when"].items()]
            print_rows(out, conditions, "left", "wrap")
        else:
            out.print("  nothing else applies")
        out.print(format_heading("Then"))
        print_rows(out, _list_outcomes(row["then"]), "left", "wrap")
        if "because" in row:
            print_section(out, "Because", [(escape(row["because"]),)], "wrap")
        print_bullets(out, evidence.HEADING, evidence.list_sentences(Evidence(claims=tuple(claims))))
        if row.get("overrides"):
            out.print(f"\nOverrides {', '.join(row['overrides'])}.")
        if overriding:
            out.print(f"\nOverridden by {', '.join(overriding)}, where they apply.")
        print_bullets(out, "Example", tests)
        print_sources(out, row["cite"], catalog)


def _list_outcomes(outcomes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in outcomes.items():
        if isinstance(value, Mapping):
            for number, (key, text) in enumerate(value.items()):
                yield "" if number else name, escape(f"{key}: {text}")
        else:
            yield name, escape(str(value))


def _format_condition(condition: Iterable[Any]) -> str:
    return ", ".join(_format_interval(item) if isinstance(item, list) else str(item) for item in condition)


def _format_interval(item: Sequence[Any]) -> str:
    low, is_low_closed, high, is_high_closed = item
    if low is None and high is None:
        return "known"
    if low == high:
        return f"{low:g}"
    if low is None:
        return f"{'<=' if is_high_closed else '<'} {high:g}"
    if high is None:
        return f"{'>=' if is_low_closed else '>'} {low:g}"
    return f"{'[' if is_low_closed else '('}{low:g} .. {high:g}{']' if is_high_closed else ')'}"


def _format_facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'unknown' if value is None else written(value)}" for name, value in facts.items())
