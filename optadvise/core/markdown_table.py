"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: Cells in Markdown; `|` is escaped and line breaks become spaces.
        numbers_from: First column that is aligned to the right, with all columns after it; None for none.
    """
    marks = ["---" if numbers_from is None or n < numbers_from else "--:" for n in range(len(headers))]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)
    return [
        "|" + "".join(f" {header} |" if header else " |" for header in headers),
        "|" + "|".join(marks) + "|",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
