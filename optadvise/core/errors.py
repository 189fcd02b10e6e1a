"""Expected errors, with their exit codes and messages; `cli.app` prints them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from optadvise.core.error_codes import ErrorCode
from optadvise.core.similarity import find_similar
from optadvise.core.text import clean_text, make_printable

Choice = TypeVar("Choice", bound=str)
Result = TypeVar("Result")


class OptadviseError(Exception):
    """Base of all expected errors: what is wrong, what is accepted and what to do, in one line.

    Attributes:
        exit_code: Exit code of the command line.
        code: Stable code; `docs/errors.md` lists all.
        option: Option that the error is about, such as `--vram`, or empty.
        value: Value that was rejected, or None.
    """

    exit_code = 2

    def __init__(self, message: str = "", *, code: ErrorCode, option: str = "", value: object = None) -> None:
        """Store the message, without a trailing semicolon if the suggestion after it is empty."""
        super().__init__(message.removesuffix("; "))
        self.code = code
        self.option = option
        self.value = value


class InputError(OptadviseError):
    """The command line or an input file is invalid."""

    exit_code = 2


class RuleFileError(OptadviseError):
    """A rule file is invalid.

    Attributes:
        where: `file:line:column`, or a file or folder.
    """

    exit_code = 3

    def __init__(self, message: str, where: str = "", source: str = "", *, code: ErrorCode) -> None:
        """Compose the one-line message.

        Args:
            message: What is wrong and what is accepted.
            where: `file:line:column`, or a file or folder.
            source: The invalid line of the file, stripped.
            code: Stable code.
        """
        head = f"{shorten_location(where)}: " if where else ""
        tail = f"  [{source[:100]}{'…' if len(source) > 100 else ''}]" if source else ""
        super().__init__(make_printable(f"{head}{message.removesuffix('; ')}{tail}"), code=code)
        self.where = where


class CannotRunHereError(OptadviseError):
    """This machine lacks a package or a device that the command needs."""

    exit_code = 4


class InterruptedMeasurementError(KeyboardInterrupt, Generic[Result]):
    """A measurement was interrupted; `result` has what was measured."""

    def __init__(self, result: Result) -> None:
        """Store the incomplete result."""
        super().__init__()
        self.result = result


class OptadviseWarning(UserWarning):
    """Problem that does not prevent an answer, such as a damaged file that is ignored."""


def shorten_location(where: str) -> str:
    """Return `file:line:column` with a path relative to the working folder if the file is in it."""
    return where.removeprefix(f"{Path.cwd()}{os.sep}")


def suggest_name(word: str, choices: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the accepted names if the list is short, and up to three similar names.

    Args:
        word: The name as typed.
        choices: The accepted names.
        aliases: Name by other spelling; a similar spelling suggests its name.

    Returns:
        Text such as `did you mean 'transformer'?`; empty if no name is similar and the list is long.
    """
    candidates = list(choices)
    guess = suggest_similar(word, candidates, aliases)
    accepted = f"accepted: {', '.join(candidates)}" if 0 < len(candidates) <= 12 else ""
    return "; ".join(part for part in (accepted, guess) if part)


def suggest_similar(word: str, choices: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the suggestion of `suggest_name` without the accepted names."""
    names = [repr(name) for name in find_similar(word, choices, aliases)]
    return f"did you mean {' or '.join(filter(None, (', '.join(names[:-1]), names[-1])))}?" if names else ""


def check_choice(flag: str, value: str, accepted: Iterable[Choice]) -> Choice:
    """Return the value if it is one of the accepted values.

    Raises:
        InputError: The value is not accepted.
    """
    choices = list(accepted)
    for choice in choices:
        if choice == value:
            return choice
    message = f"{flag} {value!r} is not supported; {suggest_name(value, choices)}"
    raise InputError(message, code=ErrorCode.UNKNOWN_CHOICE, option=flag, value=value)


def describe_error(error: BaseException) -> str:
    """Return an exception's type and the first line of its text, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {clean_text(lines[0], 200)}" if lines else type(error).__name__
