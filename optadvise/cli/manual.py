"""The man page, made of the same help that `--help` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from optadvise.cli.help import by_heading
from optadvise.core.version import __version__

_FILES = (
    ("OPTADVISE_RULES", "Folders of further rules, separated as in PATH."),
    ("OPTADVISE_CACHE_DIR", "Where what was read of the rules is kept; OPTADVISE_NO_CACHE=1 keeps nothing."),
    ("OPTADVISE_DATA_DIR", "Where bench --save keeps results."),
    ("NO_COLOR, CLICOLOR_FORCE", "No colours anywhere; colours even where the output is no terminal."),
    ("COLUMNS", "The width where the output is no terminal."),
)


def page(program: Any) -> str:
    """Return the man page of a program in roff.

    Args:
        program: The group of all commands.
    """
    context = program.make_context("optadvise", [], resilient_parsing=True)
    lines = [
        f'.TH OPTADVISE 1 "" "optadvise {__version__}" "User Commands"',
        ".SH NAME",
        f"optadvise \\- {_text(_sentence(program).rstrip('?').lower())}",
        ".SH SYNOPSIS",
        ".B optadvise",
        "COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_paragraphs(program.help),
        *_options(program, context),
        *_commands(program, context, "optadvise"),
        ".SH ENVIRONMENT",
        *(line for name, about in _FILES for line in (".TP", f".B {_text(name)}", _text(about))),
        ".SH EXIT STATUS",
        *_paragraphs(str(program.epilog).rsplit("Exit codes: ", 1)[1]),
    ]
    return "\n".join(lines) + "\n"


def _commands(group: Any, context: Any, path: str) -> Iterator[str]:
    """Yield a section for each command, those of groups in groups too."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        own = command.make_context(name, [], parent=context, resilient_parsing=True)
        if hasattr(command, "list_commands"):
            yield from _commands(command, own, f"{path} {name}")
            continue
        yield f".SH {_text(f'{path} {name}'.upper())}"
        yield from _paragraphs(command.help)
        yield from _options(command, own)
        examples = re.search(r"Examples:\n((?:  .*\n?)+)", str(command.epilog))
        if examples:
            yield from (".PP", "Examples:", ".nf", *(_text(line) for line in examples[1].splitlines()), ".fi")


def _options(command: Any, context: Any) -> Iterator[str]:
    for heading, rows in by_heading(command, context).items():
        yield f".SS {_text(heading)}"
        for name, about in rows:
            yield from (".TP", f".B {_text(name)}", _text(about))


def _paragraphs(text: str | None) -> Iterator[str]:
    for part in str(text or "").split("\n\n"):
        yield from (".PP", _text(" ".join(part.split())))


def _sentence(command: Any) -> str:
    return str(command.help or "").split("\n\n")[0]


def _text(text: str) -> str:
    """Return a text with what roff would act on made plain."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain
