"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: Cells, in which only `|` and line breaks are escaped.
        numbers_from: First of the columns that are aligned to the right, to the last; None for none.
    """
    marks = ["---" if numbers_from is None or n < numbers_from else "--:" for n in range(len(headers))]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)
    return [
        "|" + "".join(f" {header} |" if header else " |" for header in headers),
        "|" + "|".join(marks) + "|",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
