"""Escaping of text for the terminal, and normalization of names."""

from __future__ import annotations


def make_printable(text: str) -> str:
    r"""Escape the control characters of a text.

    Example:
        >>> make_printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def normalize_spelling(name: str) -> str:
    """Return a name in lower case without `-`, `_`, `+`, `.` and spaces, for comparisons.

    Example:
        >>> normalize_spelling("AdamW_8bit") == normalize_spelling("adamw-8bit")
        True
    """
    return "".join(c for c in name.lower() if c not in "-_+. ")
