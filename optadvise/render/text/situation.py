"""Facts of a situation that were assumed, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import Situation
from optadvise.render.labels import format_fact, format_flag
from optadvise.render.text.console import format_heading
from optadvise.rulebase.catalog import Catalog


def print_assumptions(
    out: Console, situation: Situation, catalog: Catalog, only: Collection[str] | None = None
) -> None:
    """Print the facts that were assumed; of `only` these, where it is not None."""
    if not situation.assumed:
        return
    # A flag stays beside its value: this wraps at plain blanks only, which the console does not.
    options = ", ".join(
        f"{format_flag(catalog, fact)} {format_fact(situation, fact)}".replace(" ", "\u00a0")
        for fact in situation.assumed
        if only is None or fact in only
    )
    out.print(format_heading("Assumed, as nobody said"))
    text = textwrap.fill(options, out.width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    out.print(escape(text), soft_wrap=True)
