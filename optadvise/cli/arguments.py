"""Checks of the arguments before they are parsed: what the parser would accept, or reject with less advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_similar


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


def check_options(command: Any, context: Any, arguments: Sequence[str]) -> None:
    """Check that each option exists, and that it has a value only if it takes one.

    The parser would use the next option as the value.

    Args:
        command: The command of typer.
        context: Its context.
        arguments: The arguments after the command's name.

    Raises:
        InputError: An option does not exist, has no value, or has one too many.
    """
    options = {name: parameter for parameter in command.get_params(context) for name in parameter.opts}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=") if argument.startswith("--") else (argument, "", "")
        if name == "--":
            return
        if name not in options:
            if name.startswith("--"):
                raise _describe_unknown(name, f"an option of {context.command_path}", options, context, option=name)
        elif options[name].param_type_name == "option" and options[name].is_flag:
            if equals:
                message = f"{argument}: {name} does not take a value; use {name} alone"
                raise InputError(message, code=ErrorCode.INVALID_VALUE, option=name, value=value)
        elif options[name].param_type_name == "option" and not equals:
            _require_value(name, next(remaining, None), options, context)


def check_subcommand(group: Any, context: Any, name: str) -> None:
    """Check that a command exists.

    Args:
        group: The group of typer.
        context: Its context.
        name: The argument in the place of a command.

    Raises:
        InputError: The command does not exist.
    """
    if not name.startswith("-") and group.get_command(context, name) is None:
        commands = group.list_commands(context)
        raise _describe_unknown(name, f"a command of {context.command_path}", commands, context, option="")


def _require_value(name: str, value: str | None, options: Mapping[str, Any], context: Any) -> None:
    if value is None or value.startswith("--") or value in options:
        place = "" if value is None else f" before {value}"
        metavar = str(options[name].metavar or "").strip("[]")
        accepted = f"accepted: {metavar.replace('|', ', ')}; " if "|" in metavar else ""
        message = f"{name} requires a value{place}; {accepted}see {context.command_path} --help"
        raise InputError(message, code=ErrorCode.MISSING_OPTION, option=name, value=value)


def _describe_unknown(name: str, what: str, names: Iterable[str], context: Any, *, option: str) -> InputError:
    """Return the error for an option or command that does not exist."""
    similar = suggest_similar(name, names)
    message = f"{name!r} is not {what}; {f'{similar} ' if similar else ''}see {context.command_path} --help"
    return InputError(message, code=ErrorCode.UNKNOWN_OPTION, option=option, value=name)
