"""Conversion of values from rules to Python source; values use `repr`, names are checked."""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Mapping

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError

WIDTH = 110  # columns of a generated line


class Expression:
    """Python source among values, such as `total_steps - warmup_steps`."""

    def __init__(self, source: str) -> None:
        """Store an expression that the code contains, never a text of a rule file."""
        self._source = source

    def __repr__(self) -> str:
        return self._source


def format_value(value: object) -> str:
    r"""Return a value as Python source; strings without escapes have double quotes.

    Args:
        value: A number, string, boolean, None, expression, or a list, tuple or mapping of them.

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
        raise RuleFileError(f"{text!r}: must be a Python name", code=ErrorCode.INVALID_ENTRY)
    return text


def check_module(text: str) -> str:
    """Return the dotted name of a module; raise RuleFileError for any other text."""
    if not all(map(_is_name, text.split("."))):
        raise RuleFileError(f"{text!r}: must be a module name such as package.module", code=ErrorCode.INVALID_ENTRY)
    return text


def check_path(text: str, at: str = "") -> str:
    """Return the import path of a class.

    Args:
        text: `package.module.Class`.
        at: `file:line:column` of its definition, for the error.

    Raises:
        RuleFileError: The text is not an import path.
    """
    if "." not in text or not all(map(_is_name, text.split("."))):
        raise RuleFileError(
            f"{text!r}: must be an import path such as package.module.Class", at, code=ErrorCode.INVALID_ENTRY
        )
    return text


def format_keywords(kwargs: Mapping[str, object]) -> str:
    """Return keyword arguments on one line.

    Example:
        >>> format_keywords({"lr": 0.1, "betas": (0.9, 0.99)})
        'lr=0.1, betas=(0.9, 0.99)'
    """
    return ", ".join(f"{check_name(name)}={format_value(value)}" for name, value in kwargs.items())


def wrap_comment(text: str, indent: int = 0) -> str:
    """Return a text as comment lines; line breaks in the text cannot end the comment.

    Args:
        text: Any text; consecutive white space becomes one space.
        indent: Spaces before each line.
    """
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"{' ' * indent}# {line}" for line in lines)


def fit_call(text: str) -> str:
    r"""Return a call with one argument per line as a single line, if that is short enough.

    Args:
        text: Opening line, one line per argument with a trailing comma, and closing line.

    Example:
        >>> fit_call("x = f(\n    a,\n    b=1,\n)\n")
        'x = f(a, b=1)\n'
    """
    opening, *argument_lines, closing = text.rstrip("\n").split("\n")
    arguments = [line.strip().removesuffix(",") for line in argument_lines if line.strip()]
    line = opening + ", ".join(arguments) + closing.strip()
    if len(line) <= WIDTH:
        return f"{line}\n"
    indent = " " * (len(opening) - len(opening.lstrip()))
    return "\n".join([opening, *(f"{indent}    {argument}," for argument in arguments), indent + closing.strip(), ""])


def repeat_for_each(line: str, has_several_optimizers: bool) -> str:
    """Return a line about `optimizer` or `scheduler`, inside a loop over all of them if there are several.

    Args:
        line: Indented line with its line break.
    """
    if not has_several_optimizers:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    name = "scheduler" if "scheduler" in line else "optimizer"
    return f"{indent}for {name} in {name}s:\n    {line}"


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)
