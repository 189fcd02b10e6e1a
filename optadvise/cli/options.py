"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.cli.complete import Offer, among
from optadvise.rulebase.imports import OPTION


def option(
    help_: str,
    *names: str,
    group: str = "The run",
    completer: Offer | None = None,
    choices: Iterable[str] = (),
    metavar: str | None = None,
) -> Any:
    """Return an option whose help shows its choices; its default is part of the help text.

    Args:
        help_: Line of help.
        names: Spellings (default: the name of the parameter).
        group: Heading in the help.
        completer: Values that the shell offers (default: the choices).
        choices: All accepted values.
        metavar: Placeholder of the value in the help (default: the choices).
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
    list[Path] | None,
    option(
        "Folder of additional rules that extend or override the shipped ones; repeatable.",
        "--rules",
        group="Rules",
        metavar="DIR",
    ),
]
AllowImports = Annotated[
    list[str] | None,
    option(
        "Import classes of this package that only additional rules list; repeatable.",
        OPTION,
        group="Rules",
        metavar="PACKAGE",
    ),
]
Json = Annotated[bool, option("Print JSON.", "--json", group="Output")]
JsonFile = Annotated[str | None, option("Print JSON, or write it to FILE.", "--json", group="Output", metavar="[FILE]")]
Output = Annotated[
    Path | None, option("Write the output to this file instead of stdout.", "--output", "-o", group="Output")
]
Report = Annotated[Path | None, option("Also write an HTML report to this file.", "--report", group="Output")]
