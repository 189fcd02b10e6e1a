"""Assumed facts of a situation as text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import Situation
from optadvise.render import headings
from optadvise.render.labels import format_fact, format_flag
from optadvise.render.recommendation import is_relevant
from optadvise.render.text.console import NO_BREAK, format_heading
from optadvise.rulebase.catalog import Catalog


def print_assumptions(
    out: Console, situation: Situation, catalog: Catalog, only: Collection[str] | None = None
) -> None:
    """Print the assumed facts under a heading; of `only` these, where it is not None."""
    options = [
        f"{format_flag(catalog, fact)} {format_fact(situation, fact)}"
        for fact in situation.assumed
        if only is None or fact in only
    ]
    if options:
        out.print(format_heading(headings.ASSUMED))
        _print_options(out, options, "  ")


def print_short_assumptions(out: Console, situation: Situation, catalog: Catalog) -> None:
    """Print the assumed facts in one paragraph: values, then what is unknown; nothing that is off."""
    facts = [fact for fact in situation.assumed if is_relevant(fact, situation.model, catalog)]
    options = [
        f"{format_flag(catalog, fact)} {format_fact(situation, fact)}"
        for fact in facts
        if getattr(situation, fact) not in (None, False, "none")
    ]
    unknown = [format_flag(catalog, fact) for fact in facts if getattr(situation, fact) is None]
    if unknown:
        options = [*options[:-1], *(f"{option};" for option in options[-1:]), f"unknown: {unknown[0]}", *unknown[1:]]
    if options:
        _print_options(out, options, f"\n[bold]{headings.ASSUMED}[/bold]: ")


def _print_options(out: Console, options: Iterable[str], start: str) -> None:
    # Keep a flag and its value on one line: this wraps at plain blanks only, which the console does not.
    joined = ", ".join(option.replace(" ", NO_BREAK) for option in options).replace(";,", ";")
    visible = start.replace("[bold]", "").replace("[/bold]", "").lstrip("\n")
    text = textwrap.fill(
        joined, out.width, initial_indent=NO_BREAK * len(visible), subsequent_indent="  ", break_on_hyphens=False
    )
    out.print(start + escape(text[len(visible) :]), soft_wrap=True)
