"""Values from rules as Python source: always through `repr`, and names only where they are names."""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Mapping

from optadvise.core.errors import RuleFileError

WIDTH = 110  # columns of a generated line


def format_value(value: object) -> str:
    r"""Return a value as Python source, a string in double quotes where nothing in it needs escaping.

    Args:
        value: A number, string, boolean, None, or a list, tuple or mapping of them.

    Example:
        >>> format_value((0.9, 0.999)), format_value("a"), format_value('"')
        ('(0.9, 0.999)', '"a"', '\'"\'')
    """
    source = repr(value)
    needs_escape = not isinstance(value, str) or not source.startswith("'") or {'"', "\\"} & {*source}
    return source if needs_escape else f'"{source[1:-1]}"'


def check_name(text: str) -> str:
    """Return the name of an argument or a variable; raise RuleFileError for any other text."""
    if not _is_name(text):
        raise RuleFileError(f"{text!r} is no argument name")
    return text


def check_module(text: str) -> str:
    """Return the dotted name of a module; raise RuleFileError for any other text."""
    if not all(map(_is_name, text.split("."))):
        raise RuleFileError(f"{text!r} is no import path")
    return text


def check_path(text: str, at: str = "") -> str:
    """Return the import path of a class.

    Args:
        text: `package.module.Class`.
        at: Where the rules define it.

    Raises:
        RuleFileError: It is not an import path.
    """
    if "." not in text or not all(map(_is_name, text.split("."))):
        raise RuleFileError(f"{text!r} is no import path", at)
    return text


def format_keywords(kwargs: Mapping[str, object]) -> str:
    """Return keyword arguments on one line.

    Example:
        >>> format_keywords({"lr": 0.1, "betas": (0.9, 0.99)})
        'lr=0.1, betas=(0.9, 0.99)'
    """
    return ", ".join(f"{check_name(name)}={format_value(value)}" for name, value in kwargs.items())


def wrap_comment(text: str, indent: int = 0) -> str:
    """Return a text as comment lines; no line break in the text can end the comment.

    Args:
        text: Any text; a run of white space becomes one space.
        indent: Columns before each line.
    """
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"{' ' * indent}# {line}" for line in lines)


def fit_call(text: str) -> str:
    r"""Put a call that is written with one argument a line on one line if that is short enough.

    Args:
        text: The line that opens the call, lines that each end an argument with a comma, and the line that closes it.

    Example:
        >>> fit_call("x = f(\n    a,\n    b=1,\n)\n")
        'x = f(a, b=1)\n'
    """
    opening, *between, closing = text.rstrip("\n").split("\n")
    arguments = [line.strip().removesuffix(",") for line in between if line.strip()]
    line = opening + ", ".join(arguments) + closing.strip()
    if len(line) <= WIDTH:
        return f"{line}\n"
    indent = " " * (len(opening) - len(opening.lstrip()))
    return "\n".join([opening, *(f"{indent}    {argument}," for argument in arguments), indent + closing.strip(), ""])


def repeat_for_each(line: str, has_several_optimizers: bool) -> str:
    """Put a line about `optimizer` or `scheduler` into a loop over `optimizers` or `schedulers`, if there are several.

    Args:
        line: The indented line with its line break.
    """
    if not has_several_optimizers:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    name = "scheduler" if "scheduler" in line else "optimizer"
    return f"{indent}for {name} in {name}s:\n    {line}"


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)
