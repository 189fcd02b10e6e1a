"""Man page, built from the texts of `--help`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from optadvise.cli.help import group_by_heading
from optadvise.core.version import __version__

_ENVIRONMENT = (
    ("OPTADVISE_RULES", "Folders of rule layers, separated as in PATH."),
    ("OPTADVISE_ALLOW_IMPORTS", "Packages of --allow-imports, separated by commas."),
    ("OPTADVISE_CACHE_DIR", "Folder of the cache of rule files; OPTADVISE_NO_CACHE=1 disables the cache."),
    ("OPTADVISE_DATA_DIR", "Folder of results of bench --save, and of findings that later answers quote."),
    ("NO_COLOR, CLICOLOR_FORCE", "Disable colors; enable colors where the output is not a terminal."),
    ("COLUMNS", "Width of the output where it is not a terminal."),
)


def format_man_page(program: Any) -> str:
    """Return the man page of a program in roff.

    Args:
        program: The group of all commands.
    """
    context = program.make_context("optadvise", [], resilient_parsing=True)
    lines = [
        f'.TH OPTADVISE 1 "" "optadvise {__version__}" "User Commands"',
        ".SH NAME",
        f"optadvise \\- {_escape(_first_paragraph(program).rstrip('.').lower())}",
        ".SH SYNOPSIS",
        ".B optadvise",
        "COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_format_paragraphs(program.help),
        *_format_options(program, context),
        *_format_commands(program, context, "optadvise"),
        ".SH ENVIRONMENT",
        *(line for name, about in _ENVIRONMENT for line in (".TP", f".B {_escape(name)}", _escape(about))),
        ".SH EXIT STATUS",
        *_format_paragraphs(str(program.epilog).rsplit("Exit codes: ", 1)[1]),
    ]
    return "\n".join(lines) + "\n"


def _format_commands(group: Any, context: Any, path: str) -> Iterator[str]:
    """Yield a section for each command, also for the commands of groups."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        subcontext = command.make_context(name, [], parent=context, resilient_parsing=True)
        if hasattr(command, "list_commands"):
            yield from _format_commands(command, subcontext, f"{path} {name}")
            continue
        yield f".SH {_escape(f'{path} {name}'.upper())}"
        yield from _format_paragraphs(command.help)
        yield from _format_options(command, subcontext)
        for title, block in re.findall(r"\x08\n(.+)\n((?:  .*\n?)+)", str(command.epilog)):
            yield from (".PP", _escape(title), ".nf", *map(_escape, block.splitlines()), ".fi")


def _format_options(command: Any, context: Any) -> Iterator[str]:
    for heading, rows in group_by_heading(command, context).items():
        yield f".SS {_escape(heading)}"
        for name, about in rows:
            yield from (".TP", f".B {_escape(name)}", _escape(about))


def _format_paragraphs(text: str | None) -> Iterator[str]:
    for part in str(text or "").split("\n\n"):
        yield from (".PP", _escape(" ".join(part.split())))


def _first_paragraph(command: Any) -> str:
    return str(command.help or "").split("\n\n")[0]


def _escape(text: str) -> str:
    """Return a text with the characters that roff interprets escaped."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
