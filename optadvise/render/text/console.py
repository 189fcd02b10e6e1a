"""Rich pages and tables for text output: 80 columns and no colors if stdout is not a terminal."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

# Kind of a table's column, alone or after the column's header: `left`, `right`, `wrap` (takes the remaining width and
# wraps) or `fold` (as wide as its text, wraps only where the terminal is too narrow for the other columns).
Column: TypeAlias = "str | tuple[str, str]"

NO_BREAK = "\ue000"  # a blank at which no line ends, printed as a plain one; Rich ends lines at no-break spaces
WIDTH = 80  # where stdout is not a terminal and COLUMNS is not set
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[KMG]iB)(?!\w))")  # blank between a number and its unit
_MAX_WIDTH = 100
_MIN_WIDTH = 40
# ASCII spellings for outputs that can encode only ASCII; other characters become a question mark.
_ASCII = str.maketrans({
    "²": "^2", "³": "^3", "−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "…": "...", "→": "->", "√": "sqrt ",
    "₁": "1", "₀": "0", "π": "pi", "≤": "<=", "≥": ">=", "’": "'", "“": '"', "”": '"', "█": "#", "▌": "#", "▏": "|",
})  # fmt: skip


class _WideTableConsole(Console):
    """Console that becomes wider for a table whose figures would be cut off."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; on a narrow terminal, with the width that the tables need."""
        width = self.width
        if width < WIDTH:
            self.width = max(width, *(self._measure_table(item) for item in objects if isinstance(item, Table)), 0)
        try:
            super().print(*objects, **options)
        finally:
            self.width = width

    def _measure_table(self, table: Table) -> int:
        """Return the columns that a table needs to cut off no cell and break no word."""
        widths = []
        for column in table.columns:
            cells = [self.measure(self.render_str(str(cell))) for cell in (column.header, *column.cells)]
            widths.append(max(cell.maximum if column.no_wrap else cell.minimum for cell in cells))
        return sum(widths) + 2 * len(widths)


class Page:
    """Output of one command, written at once and without trailing blanks."""

    def __init__(self, *, keep: bool = False, plain: bool = False) -> None:
        """Start an empty page, as wide as the terminal but at most 100 columns.

        Args:
            keep: Keep the page as `text` instead of writing it.
            plain: Use no colors, for a file.
        """
        terminal = sys.stdout.isatty() and not plain
        color = os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0") and "NO_COLOR" not in os.environ
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) >= _MIN_WIDTH else WIDTH
        self._console = _WideTableConsole(
            width=None if terminal else width,
            highlight=False,
            emoji=False,
            force_terminal=False if plain else color or None,
        )
        self._console.width = min(self._console.width, _MAX_WIDTH)
        self._capture = self._console.capture()
        self._keep = keep
        self.text = ""

    def __enter__(self) -> Console:
        """Return the console to print on."""
        self._capture.__enter__()
        return self._console

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Write the page, unless an error ended it."""
        self._capture.__exit__(None, None, None)
        if error is None:
            lines = self._capture.get().replace(NO_BREAK, " ").split("\n")
            self.text = "\n".join(line.rstrip() for line in lines).lstrip("\n")  # a page may begin with a section
            if not can_encode(self.text, sys.stdout.encoding):
                self.text = self.text.translate(_ASCII)
            if not self._keep:
                sys.stdout.write(self.text)


def can_encode(text: str, encoding: str | None) -> bool:
    """Return whether an encoding can encode a text; None can encode any."""
    try:
        text.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def format_heading(title: str) -> str:
    """Return a section's heading, preceded by a blank line."""
    return f"\n[bold]{title}[/bold]"


def make_table(*columns: Column, indent: int = 2) -> Table:
    """Build a borderless table; the first cell of each row is the empty one of the indent, if there is an indent.

    Args:
        columns: Kinds of the columns, with headers where the table has a header line.
        indent: Blanks before the first column.
    """
    table = Table(
        box=None,
        show_header=any(isinstance(column, tuple) for column in columns),
        header_style="dim",
        padding=(0, 2, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    if indent:
        table.add_column(width=indent - 2)
    for column in columns:
        header, kind = column if isinstance(column, tuple) else ("", column)
        table.add_column(
            header,
            justify="right" if kind == "right" else "left",
            no_wrap=kind not in ("wrap", "fold"),
            ratio=1 if kind == "wrap" else None,
            overflow="fold",
        )
        table.expand = table.expand or kind == "wrap"
    return table


def print_rows(out: Console, rows: Iterable[Sequence[RenderableType]], *columns: Column, indent: int = 2) -> None:
    """Print a table.

    Args:
        rows: Cells of each row, as markup.
        indent: Blanks before the first column.
    """
    table = make_table(*columns, indent=indent)
    for row in rows:
        table.add_row(*[""] * (indent > 0), *map(_keep_units, row))
    out.print(table)


def _keep_units(cell: RenderableType) -> RenderableType:
    """Return a cell in which no line ends between a number and its unit."""
    if isinstance(cell, Text):
        cell = cell.copy()
        cell.plain = _UNIT.sub(NO_BREAK, cell.plain)
    return _UNIT.sub(NO_BREAK, cell) if isinstance(cell, str) else cell


def print_labelled(out: Console, rows: Iterable[tuple[str, RenderableType]]) -> None:
    """Print one-line sections: a bold label followed by its text."""
    print_rows(out, [(f"[bold]{label}[/bold]", text) for label, text in rows], "left", "wrap", indent=0)


def print_section(out: Console, title: str, rows: Iterable[Sequence[RenderableType]], *columns: Column) -> None:
    """Print a heading and a table; nothing without rows. Arguments are those of `print_rows`."""
    rows = list(rows)
    if rows:
        out.print(format_heading(title))
        print_rows(out, rows, *columns)


def print_paragraph(out: Console, text: RenderableType) -> None:
    """Print markup as an indented paragraph."""
    print_rows(out, [(text,)], "wrap")


def print_unbroken(out: Console, text: str, indent: int = 2) -> None:
    """Print a text without markup, such as an address, on one line, however long it is."""
    out.print(f"{' ' * indent}{escape(text)}", soft_wrap=True)


def print_call(out: Console, call: str, comment: str = "") -> None:
    """Print a constructor call with a comment; a long call continues indented, and no argument is broken."""
    name, _, arguments = call.partition("(")
    unbroken = re.sub(r"\([^()]*\)", lambda match: match[0].replace(" ", NO_BREAK), arguments)
    unbroken += " " + f"# {comment}".replace(" ", NO_BREAK) if comment else ""
    lines = textwrap.wrap(
        f"{name}({unbroken}", out.width, initial_indent="  ", subsequent_indent="      ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    out.print(escape("\n".join(lines)), soft_wrap=True)
