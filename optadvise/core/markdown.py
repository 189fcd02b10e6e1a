"""Markdown: escaped text, code and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Within a word or before a space, `_`, `<` and `&` are plain text.
_SYNTAX = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)|<(?=[\w/!?])|&(?=[\w#])")
_BLOCK = re.compile(
    r"^(\d*)([-+#.)](?=[-+#\s]|$)|>|=(?==*$))"
)  # start of a heading, a line, a quotation or a list item
# Positions and texts that comments break: GitHub makes links of users, issues, emails, addresses and commits.
_REFERENCE = re.compile(
    r"(?<=@)(?=\S)|(?<=#)(?=\d)|(?<=\bGH-)(?=\d)|:(?=//)|(?<=www)(?=\.)|(?<![^\W_])(?=\d*[a-f])[0-9a-f]{7,40}(?![^\W_])",
    re.IGNORECASE,
)


class Markdown(str):
    """Text in the syntax of Markdown; any other text is escaped before it is inserted."""

    __slots__ = ()


def escape_markdown(text: str) -> Markdown:
    r"""Return a text on one line with all syntax of Markdown and HTML escaped; Markdown is returned unchanged.

    Example:
        >>> escape_markdown("<b> [x](y) and snake_case, @team")
        '\\<b> \\[x\\](y) and snake_case, @<!-- -->team'
    """
    if isinstance(text, Markdown):
        return text
    escaped = _BLOCK.sub(r"\1\\\2", _SYNTAX.sub(r"\\\g<0>", " ".join(text.split())))
    return Markdown(_REFERENCE.sub(_break_reference, escaped))


def _break_reference(match: re.Match[str]) -> str:
    """Return a reference with comments, which are not shown; a part of a commit is shorter than any link to one."""
    return "<!-- -->".join(re.findall(".{1,6}", match[0])) if len(match[0]) > 1 else f"{match[0]}<!-- -->"


def format_code(text: str) -> Markdown:
    """Return a text as code on one line, without the backticks that would end it; empty for an empty text.

    Example:
        >>> format_code("pip install `x`")
        '`pip install x`'
    """
    code = " ".join(text.replace("`", "").split())
    return Markdown(f"`{code}`" if code else "")


def format_table(headers: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: Cells; a text that is not `Markdown` is escaped.
        numbers_from: First column that is aligned to the right, with all columns after it; None for none.
    """
    marks = ["---" if numbers_from is None or n < numbers_from else "--:" for n in range(len(headers))]
    cells = ([" ".join(escape_markdown(cell).split()).replace("|", "\\|") for cell in row] for row in rows)
    return [
        "|" + "".join(f" {escape_markdown(header)} |" if header else " |" for header in headers),
        "|" + "|".join(marks) + "|",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
