"""One console for all commands: 80 columns and no colour where the output is no terminal."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 80  # where the output is no terminal, and COLUMNS does not say otherwise
LONGEST = 100
_NARROWEST = 40
# For outputs that hold ASCII alone; what is not here becomes a question mark.
_PLAIN = str.maketrans({
    "²": "^2", "³": "^3", "−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "…": "...", "→": "->", "√": "sqrt ",
    "₁": "1", "₀": "0", "π": "pi", "≤": "<=", "≥": ">=", "’": "'", "“": '"', "”": '"', "█": "#", "▌": "#", "▏": "|",
})  # fmt: skip


class _Uncut(Console):
    """A console on which a table is as wide as its figures need; a broken line reads better than a figure cut off."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; on a narrow terminal, as wide as a table needs where it is one."""
        width = self.width
        if width < WIDTH:
            self.width = max(width, *(self._needs(one) for one in objects if isinstance(one, Table)), 0)
        try:
            super().print(*objects, **how)
        finally:
            self.width = width

    def _needs(self, table: Table) -> int:
        """Return the columns that a table takes with no cell cut and no word broken."""
        widths = []
        for column in table.columns:
            cells = [self.measure(self.render_str(str(cell))) for cell in (column.header, *column.cells)]
            widths.append(max(cell.maximum if column.no_wrap else cell.minimum for cell in cells))
        return sum(widths) + 2 * len(widths)


class Page:
    """Collects what a command prints and writes it at once, without blanks at the ends of lines."""

    def __init__(self, *, keep: bool = False, plain: bool = False) -> None:
        """Start an empty page, as wide as the terminal but at most 100 columns.

        Args:
            keep: Keep the page as `text` instead of writing it.
            plain: It goes to a file: no colours, whatever stdout is.
        """
        terminal = sys.stdout.isatty() and not plain
        forced = os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0") and "NO_COLOR" not in os.environ
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) >= _NARROWEST else WIDTH
        self._console = _Uncut(
            width=None if terminal else width,
            highlight=False,
            emoji=False,
            force_terminal=False if plain else forced or None,
        )
        if self._console.width > LONGEST:
            self._console.width = LONGEST
        self._capture = self._console.capture()
        self._keep = keep
        self.text = ""

    def __enter__(self) -> Console:
        """Return the console to print on."""
        self._capture.__enter__()
        return self._console

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Finish the page, unless the making of it failed."""
        self._capture.__exit__(None, None, None)
        if error is None:
            lines = self._capture.get().replace("\u00a0", " ").split("\n")
            self.text = "\n".join(line.rstrip() for line in lines)
            if not _encodes(self.text):
                self.text = self.text.translate(_PLAIN)
            if not self._keep:
                sys.stdout.write(self.text)


def _encodes(text: str) -> bool:
    """Can stdout hold a text? One without an encoding can."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def heading(words: str) -> str:
    """Return a section's heading, set off by a blank line."""
    return f"\n[bold]{words}[/bold]"


def grid(*columns: str, indent: int = 2) -> Table:
    """Return a borderless table.

    Args:
        columns: For each column `left`, `right`, `wrap` (takes what is left of the line and breaks it) or `fold` (as
            wide as it needs to be, broken where the line is too short, so that no other column is cut).
        indent: Blanks before the first column.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(width=indent - 2)
    for column in columns:
        table.add_column(
            justify="right" if column == "right" else "left",
            no_wrap=column not in ("wrap", "fold"),
            ratio=1 if column == "wrap" else None,
            overflow="fold",
        )
    if "wrap" in columns:
        table.expand = True
    return table


def paragraph(words: str, indent: int = 2) -> Table:
    """Return words, every line of which is indented alike.

    Args:
        words: With markup.
        indent: Blanks before each line.
    """
    table = grid("wrap", indent=indent)
    table.add_row("", words)
    return table


def titled(indent: int, *columns: tuple[str, str]) -> Table:
    """Return a borderless table with a header line.

    Args:
        indent: Blanks before the first column.
        columns: Pairs of title and kind, as in `grid`.
    """
    table = grid(*(kind for _, kind in columns), indent=indent)
    table.show_header = True
    table.header_style = "dim"
    for column, (title, _) in zip(table.columns[1:], columns, strict=True):
        column.header = title
    return table
