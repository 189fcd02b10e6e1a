"""Errors as a record with a stable code, and the line and JSON object that report them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import typer

from optadvise.cli.spellings import JSON_FILE_COMMANDS
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import OptadviseError, OptadviseWarning, RuleFileError
from optadvise.core.json_text import Document, encode_json
from optadvise.core.text import make_printable

# typer has had its own copy of click since 0.26, so click's errors are reached through what typer exports.
USAGE_ERRORS: type[Exception] = typer.BadParameter.__mro__[2]
_USAGE_CODES = {
    "NoSuchOption": ErrorCode.UNKNOWN_OPTION,
    "MissingParameter": ErrorCode.MISSING_OPTION,
    "BadOptionUsage": ErrorCode.MISSING_OPTION,
    "BadArgumentUsage": ErrorCode.MISSING_OPTION,
}
_LONG_WORD = re.compile(r"(\S{200})\S{200,}(\S{100})")  # longer than a path that a person types
# Endings of click's messages, with the code and what is wrong instead.
_INVALID_VALUES = (
    (r": '(.*)' is not a valid int", ErrorCode.INVALID_NUMBER, "must be a whole number"),
    (r": '(.*)' is not a valid float", ErrorCode.INVALID_NUMBER, "must be a number"),
    (r": Path '(.*)' is not readable", ErrorCode.FILE_UNREADABLE, "cannot be read (permission denied)"),
)


class Failure(Document, frozen=True, kw_only=True):
    """Why a command failed.

    Attributes:
        code: Stable code; `docs/errors.md` lists all.
        exit_code: Exit code of the process.
        message: What is wrong, what is accepted and what to do, in one line.
        option: Option that the error is about, or None.
        value: Value that was rejected, or None.
        where: `file:line:column` of an invalid file; None for other errors.
    """

    kind: Literal["error"] = "error"
    code: str
    exit_code: int
    message: str
    option: str | None = None
    value: str | None = None
    where: str | None = None


def classify_error(error: BaseException) -> Failure:
    """Return what a command reports for an error.

    Raises:
        BaseException: The error itself, where it is unexpected: a bug.
    """
    if isinstance(error, OptadviseError):
        value = None if error.value is None else str(error.value)
        where = error.where if isinstance(error, RuleFileError) else None
        return Failure(
            code=error.code.value, exit_code=error.exit_code, message=str(error),
            option=error.option or None, value=value, where=where or None,
        )  # fmt: skip
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Failure(code=ErrorCode.INTERRUPTED.value, exit_code=130, message="interrupted")
    if isinstance(error, OSError):
        return _classify_system_error(error)
    if isinstance(error, USAGE_ERRORS):
        return _classify_usage_error(error)
    if isinstance(error, Exception) and "optadvise.rule_analysis.rule_folders" in sys.modules:
        return _classify_rule_error(error)
    raise error


def report_failure(failure: Failure, arguments: Sequence[str]) -> None:
    """Print a failure: one line on stderr, and where the command was to print JSON, the JSON object on stdout.

    Args:
        failure: What is reported.
        arguments: The command line, which decides about JSON and the traceback.
    """
    code = ""
    if "--debug" in arguments:
        traceback.print_exc()
        code = f" [{failure.code}]"
    line = _LONG_WORD.sub(r"\1…\2", make_printable(" ".join(failure.message.split())))
    print(f"optadvise: {line}{code}", file=sys.stderr)
    if prints_json(arguments):
        with contextlib.suppress(OSError):  # the exit code is that of the failure
            sys.stdout.write(encode_json(failure))


@contextlib.contextmanager
def print_warnings() -> Iterator[None]:
    """Print each warning of optadvise as one line on stderr, within the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", OptadviseWarning)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if issubclass(category, OptadviseWarning):
                print(f"optadvise: warning: {make_printable(str(message))}", file=sys.stderr)
            else:
                show_other(message, category, *where, **options)

        warnings.showwarning = show
        yield


def prints_json(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for JSON on stdout."""
    if "--json" in arguments:
        takes_file = bool(set(JSON_FILE_COMMANDS) & set(arguments))
        if takes_file:  # alone it prints to stdout; an option follows where the arguments are not normalized yet
            return any(flag == "--json" and value.startswith("-") for flag, value in pairwise([*arguments, "-"]))
        return not {"--output", "-o"} & {*arguments}
    return bool({"--json=-", "--format=json"} & {*arguments}) or ("--format", "json") in pairwise(arguments)


def _classify_system_error(error: OSError) -> Failure:
    """Return an error of the operating system, without a file if it concerns stdout."""
    reason = error.strerror or str(error)
    if error.filename is None:
        message = f"the output cannot be written ({reason}); write it to another place"
        return Failure(code=ErrorCode.FILE_NOT_WRITABLE.value, exit_code=4, message=message)
    path = os.fsdecode(error.filename)
    message = f"{path!r} cannot be used ({reason}); use another path"
    return Failure(code=ErrorCode.FILE_UNREADABLE.value, exit_code=2, message=message, value=path)


def _classify_usage_error(error: Exception) -> Failure:
    message = getattr(error, "format_message", error.__str__)()
    command = getattr(getattr(error, "ctx", None), "command_path", None) or "optadvise"
    names = [kind.__name__ for kind in type(error).__mro__]
    unnamed = ErrorCode.UNKNOWN_OPTION if message.startswith("No such command") else ErrorCode.INVALID_VALUE
    code = next((_USAGE_CODES[name] for name in names if name in _USAGE_CODES), unnamed)
    parameter = getattr(error, "option_name", None) or next(
        iter(getattr(getattr(error, "param", None), "opts", ())), None
    )
    value = None
    for pattern, invalid, problem in _INVALID_VALUES:
        if match := re.search(pattern, message, re.DOTALL):
            code, value, message = invalid, match[1], f"{parameter} '{match[1]}': {problem}"
    return Failure(
        code=code.value, exit_code=2, message=f"{message.rstrip('.')}; see {command} --help", option=parameter,
        value=value,
    )  # fmt: skip


def _classify_rule_error(error: Exception) -> Failure:
    """Return an unexpected error as one of the rule layers in use; raise it where there are none, as a bug.

    Layers are checked against schemas and proven, but not every value is known to make sense.
    """
    from optadvise.rule_analysis.rule_folders import get_folders_in_use

    folders = get_folders_in_use()
    if not folders:
        raise error
    cause = f"{type(error).__name__}: {error}"[:200]
    message = f"{', '.join(folders)}: these rules cause an error ({cause}); optadvise --debug shows where"
    return Failure(code=ErrorCode.INVALID_ENTRY.value, exit_code=RuleFileError.exit_code, message=message)
