"""Values from rules as Python: always through `repr`, and names only where they are names."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any

from optadvise.core.errors import RuleFileError

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
WIDTH = 110  # of a line that is written


def literal(value: Any) -> str:
    """Return a value as Python writes it, lists of numbers as tuples.

    Args:
        value: A number, text, flag, None, or a list or mapping of them.

    Example:
        >>> literal([0.9, 0.999])
        '(0.9, 0.999)'
    """
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = tuple(value)
    text = repr(value)
    # Only the quotes are other than repr's, where nothing inside could end them.
    return f'"{text[1:-1]}"' if isinstance(value, str) and re.fullmatch(r"'[^'\"\\]*'", text) else text


def path(text: str, at: str = "") -> str:
    """Return an import path that is one.

    Args:
        text: `package.module.Class`.
        at: Where the rules have it.

    Raises:
        RuleFileError: It is none.
    """
    if not _PATH.fullmatch(text) or any(keyword.iskeyword(part) for part in text.split(".")):
        raise RuleFileError(f"{text!r} is no import path", at)
    return text


def arguments(kwargs: Mapping[str, Any]) -> list[str]:
    """Return keyword arguments, each as `name=value`.

    Raises:
        RuleFileError: A name is none.
    """
    for name in kwargs:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise RuleFileError(f"{name!r} is no argument name")
    return [f"{name}={literal(value)}" for name, value in kwargs.items()]


def without_gpu(kwargs: Mapping[str, Any]) -> list[str]:
    """Return arguments that are passed only where there is no GPU, as one that is unpacked; none for none."""
    if not kwargs:
        return []
    return [f"**({{}} if torch.cuda.is_available() else dict({', '.join(arguments(kwargs))}))"]


def call(function: str, given: Iterable[str], indent: int = 0, before: str = "", after: str = "") -> list[str]:
    """Return a call as lines, one argument a line where one line would be too long.

    Args:
        function: What is called.
        given: Its arguments as written.
        indent: Columns before it.
        before: What stands before it on its line, such as `optimizer = `.
        after: What stands after it.
    """
    blank, given = " " * indent, list(given)
    line = f"{blank}{before}{function}({', '.join(given)}){after}"
    if len(line) <= WIDTH:
        return [line]
    return [f"{blank}{before}{function}(", *(f"{blank}    {one}," for one in given), f"{blank}){after}"]


def comment(text: str, indent: int = 0) -> list[str]:
    """Return a text as comment lines; no break in it can end the comment.

    Args:
        text: What to say.
        indent: Columns before it.
    """
    lines, line = [], ""
    for word in text.split():
        if line and indent + len(line) + len(word) + 3 > WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [f"{' ' * indent}# {one}" for one in [*lines, line] if one]
