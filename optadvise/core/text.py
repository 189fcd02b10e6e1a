"""Text that came from elsewhere: made safe to print, and names compared in any spelling."""

from __future__ import annotations


def make_printable(text: str) -> str:
    r"""Escape every character that a terminal would act on.

    Example:
        >>> make_printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def normalize_spelling(name: str) -> str:
    """Return a name without the differences that people do not make: case, `-`, `_`, `+`, `.` and spaces.

    Example:
        >>> normalize_spelling("AdamW_8bit") == normalize_spelling("adamw-8bit")
        True
    """
    return "".join(c for c in name.lower() if c not in "-_+. ")
