"""The options that several commands take, each declared once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.cli.complete import Offer, among


def option(
    help_: str,
    *names: str,
    group: str = "The run",
    completer: Offer | None = None,
    choices: Iterable[str] = (),
    metavar: str | None = None,
) -> Any:
    """Return an option that shows its choices, and no default beside those that its help has.

    Args:
        help_: Its line of help.
        names: Its spellings, where they are not the parameter's own.
        group: Under which heading the help shows it.
        completer: What the shell offers; the choices where there are any.
        choices: All its values.
        metavar: What stands for its value in the help; the choices where there are any.
    """
    return typer.Option(
        *names,
        help=help_,
        metavar=f"[{'|'.join(choices)}]" if choices else metavar,
        rich_help_panel=group,
        show_default=False,
        autocompletion=completer or (among(choices) if choices else None),
    )


Rules = Annotated[
    list[Path] | None, option("A folder of further rules; may repeat.", "--rules", group="Output", metavar="DIR")
]
Json = Annotated[bool, option("Short for --format json.", "--json", group="Output")]
Report = Annotated[Path | None, option("Write a page of HTML to this file, too.", "--report", group="Output")]
