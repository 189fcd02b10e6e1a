"""Assumed facts of a situation as text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable

from rich.console import Console
from rich.markup import escape

from optadvise.advice.probes import is_relevant
from optadvise.core.cards import SHIPPED
from optadvise.core.records import Situation
from optadvise.core.text import clean_text
from optadvise.render import headings
from optadvise.render.labels import (
    find_gpu_id,
    format_fact,
    format_flag,
    format_option,
    list_assumptions,
    list_implied_facts,
)
from optadvise.render.run_plan import CHOSEN_FACTS
from optadvise.render.text.console import NO_BREAK, format_heading
from optadvise.rule_analysis.inputs_of_point import list_shape_options
from optadvise.rulebase.catalog import Catalog


def print_assumptions(
    out: Console, situation: Situation, catalog: Catalog, only: Collection[str] | None = None
) -> None:
    """Print the assumed facts under a heading; of `only` these, where it is not None."""
    options = list_assumptions(situation, catalog, only)
    if options:
        out.print(format_heading(headings.ASSUMED))
        _print_options(out, options, "  ")


def print_inputs(out: Console, situation: Situation, catalog: Catalog) -> None:
    """Print the specified options, then the assumed facts: values, then what is unknown; not how to run the training.

    Rule layers are among the specified options, as pyproject.toml may name them.
    """
    layers = [f"rules in {clean_text(name)}" for name, _ in catalog.folders if name != SHIPPED]
    specified = [*_list_specified(situation, catalog), *layers]
    if specified:
        _print_options(out, specified, f"\n[bold]{headings.SPECIFIED}[/bold]: ")
    facts = [
        fact
        for fact in situation.assumed
        if is_relevant(catalog.facts.get(fact), situation) and fact not in CHOSEN_FACTS
    ]
    options = [
        f"{format_flag(catalog, fact)} {format_fact(situation, fact, catalog)}"
        for fact in facts
        if getattr(situation, fact) not in (None, False, "none")
    ]
    unknown = [format_flag(catalog, fact) for fact in facts if getattr(situation, fact) is None]
    if unknown:
        options = [*options[:-1], *(f"{option};" for option in options[-1:]), f"unknown: {unknown[0]}", *unknown[1:]]
    if options:
        blank = "" if specified else "\n"
        _print_options(out, options, f"{blank}[bold]{headings.ASSUMED}[/bold]: ")


def _list_specified(situation: Situation, catalog: Catalog) -> list[str]:
    """Return the specified options with their values, without the facts that a GPU or an architecture implies."""
    options = []
    shape, gpu = situation.shape, find_gpu_id(situation, catalog)
    if shape is not None and "shape" in situation.stated:
        options += [f"{flag} {value}" for flag, value in list_shape_options(shape, catalog)]
    skipped = {"shape", "gpu", *list_implied_facts(situation, catalog)}
    facts = sorted(set(situation.stated) - skipped, key=[*catalog.facts, *situation.stated].index)
    for fact in facts:
        value = getattr(situation, fact)
        options.append(format_option(catalog, fact, True if value is True else format_fact(situation, fact, catalog)))
    return options + ([] if gpu is None else [f"--gpu {gpu}"])


def _print_options(out: Console, options: Iterable[str], start: str) -> None:
    # Keep a flag and its value on one line: this wraps at plain blanks only, which the console does not.
    joined = ", ".join(option.replace(" ", NO_BREAK) for option in options).replace(";,", ";")
    visible = start.replace("[bold]", "").replace("[/bold]", "").lstrip("\n")
    text = textwrap.fill(
        joined, out.width, initial_indent=NO_BREAK * len(visible), subsequent_indent="  ", break_on_hyphens=False
    )
    out.print(start + escape(text[len(visible) :]), soft_wrap=True)
