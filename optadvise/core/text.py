"""Text that came from elsewhere, made safe to print."""

from __future__ import annotations


def make_printable(text: str) -> str:
    r"""Escape every character that a terminal would act on.

    Example:
        >>> make_printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
