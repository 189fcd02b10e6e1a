"""A situation in words."""

from __future__ import annotations

import textwrap
from collections.abc import Collection

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import Situation
from optadvise.render.text.console import heading
from optadvise.rulebase.catalog import Catalog


def assumed(out: Console, situation: Situation, catalog: Catalog, only: Collection[str] | None = None) -> None:
    """Print what nobody said.

    Args:
        out: Where.
        situation: The run.
        catalog: Knows the flags.
        only: The facts that the answer read; None is all.
    """
    if not situation.assumed:
        return
    words = []
    for name in situation.assumed:
        if only is not None and name not in only:
            continue
        value = getattr(situation, name)
        shown = "not known" if value is None else f"{value:,}" if type(value) is int else str(value).lower()
        flag = catalog.facts[name].get("flag", f"--{name}")
        words.append(f"{flag} {shown}".replace(" ", "\u00a0"))
    out.print(heading("Assumed, as nobody said"))
    # A flag stays beside its value: this wraps at plain blanks only, which the console does not.
    lines = textwrap.fill(
        ", ".join(words), out.width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    out.print(escape(lines), soft_wrap=True)
