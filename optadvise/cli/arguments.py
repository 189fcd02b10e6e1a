"""Checks of the arguments that the parser would accept: empty or undecodable values, and options without a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError


def check_arguments(arguments: Sequence[str]) -> None:
    """Reject values that no option accepts.

    Args:
        arguments: The arguments after the program's name.

    Raises:
        InputError: A value is empty, or has characters that no text can have.
    """
    previous = ""
    for argument in arguments:
        flag, equals, value = argument.partition("=") if argument.startswith("--") else (argument, "", argument)
        option = flag if equals else previous if previous.startswith("-") else ""
        if not value.strip() and (equals or not flag.strip()):
            message = f"{option or 'argument'} {value!r}: the value is empty; specify a value or remove it"
            raise InputError(message, code=ErrorCode.INVALID_VALUE, option=option, value=value)
        if "\0" in argument or any("\ud800" <= character <= "\udfff" for character in argument):
            message = f"{option or 'argument'} {value!r}: the value is not valid UTF-8 text; use another value"
            raise InputError(message, code=ErrorCode.INVALID_VALUE, option=option, value=value)
        previous = argument


def require_values(command: Any, context: Any, arguments: Sequence[str]) -> None:
    """Check that each option that takes a value has one; the parser would use the next option as the value.

    Args:
        command: The command of typer.
        context: Its context.
        arguments: The arguments after the command's name.

    Raises:
        InputError: An option has no value.
    """
    options = {name: parameter for parameter in command.get_params(context) for name in parameter.opts}
    remaining = iter(arguments)
    for argument in remaining:
        parameter = options.get(argument)
        if parameter is None or parameter.param_type_name != "option" or parameter.is_flag:
            continue
        value = next(remaining, None)
        if value is None or value.startswith("--") or value in options:
            found = "" if value is None else f" before {value}"
            metavar = str(parameter.metavar or "").strip("[]")
            accepted = f"accepted: {metavar.replace('|', ', ')}; " if "|" in metavar else ""
            message = f"{argument} requires a value{found}; {accepted}see {context.command_path} --help"
            raise InputError(message, code=ErrorCode.MISSING_OPTION, option=argument, value=value)
