"""Escaping of text for the terminal, cleaning of foreign text, and normalization of names."""

from __future__ import annotations

MAX_TEXT = 1000  # characters of a foreign text; the longest text of the shipped rules has 240


def is_printable(character: str) -> bool:
    """Return whether a character is visible, a blank, a tab or a newline.

    False for control characters, bidirectional and zero-width characters, and lone surrogates.
    """
    if character.isprintable() or character in "\n\t":
        return True
    return character.isspace() and character > "\x9f" and character not in "\u2028\u2029"  # such as a no-break space


def make_printable(text: str) -> str:
    r"""Escape the invisible characters of a text, such as those that control a terminal.

    Example:
        >>> make_printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if is_printable(c) else c.encode("unicode_escape").decode() for c in text)


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    r"""Return a text of a foreign file or process as one harmless line.

    Invisible characters are escaped, line breaks become blanks, and a long text is cut.

    Args:
        text: Any text.
        limit: Maximum number of characters before the escaping.

    Example:
        >>> clean_text("one\ntwo \u202e")
        'one two \\u202e'
        >>> clean_text("abcdef", 4)
        'abc…'
    """
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return make_printable(text.replace("\r\n", " ").translate({ord(c): " " for c in "\n\t\r"}))


def normalize_spelling(name: str) -> str:
    """Return a name in lower case without `-`, `_`, `+`, `.` and spaces, for comparisons.

    Example:
        >>> normalize_spelling("AdamW_8bit") == normalize_spelling("adamw-8bit")
        True
    """
    return "".join(c for c in name.lower() if c not in "-_+. ")
