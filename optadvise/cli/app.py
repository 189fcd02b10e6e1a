"""The command line: parse, call, render. The one place where errors become exit codes."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Annotated

import typer

from optadvise import __version__
from optadvise.errors import OptadviseError, RuleFileError, printable

EXIT_CODES = (
    "Exit codes: 0 done; 1 a check said no; 2 the command line or an input is wrong; 3 rule or result files are "
    "invalid; 4 could not run here; 5 inconclusive; 130 interrupted."
)

# Each command's module and function. Only what a command line names is imported and built, as every option that typer
# reads takes its part of the start.
COMMANDS = {
    "recommend": ("recommend", "recommend"),
    "estimate": ("estimate", "estimate"),
    "schedule": ("schedule", "schedule"),
    "trajectories": ("trajectories", "trajectories"),
    "bench": ("bench", "bench"),
    "compare": ("compare", "compare"),
    "list": ("catalogue", "list_"),
    "show": ("catalogue", "show"),
    "doctor": ("doctor", "doctor"),
    "rules": ("rules", "group"),
}
_GROUPS = ("rules",)  # commands that have commands of their own


# Commands without arguments, of whose many options only those that were typed need building.
_OPTIONS_ONLY = ("recommend", "estimate")


def build(names: Iterable[str] = COMMANDS, typed: Sequence[str] = ("--help",)) -> typer.Typer:
    """Return the command line with some of its commands.

    Args:
        names: The commands to build.
        typed: What was typed, which says which options are needed; `--help` needs all.
    """
    app = typer.Typer(
        name="optadvise",
        help="Which optimizer, with which numbers, will it fit, and what does it cost here?",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(root)
    for name in names:
        module, function = COMMANDS[name]
        command = getattr(import_module(f"optadvise.cli.{module}"), function)
        if name in _GROUPS:
            app.add_typer(command(EXIT_CODES), name=name)
            continue
        if name in _OPTIONS_ONLY:
            command = _needed(command, typed)
        app.command(name, epilog=EXIT_CODES)(command)
    return app


def _needed(command: Callable[..., None], typed: Sequence[str]) -> Callable[..., None]:
    """Return a command with the options that were typed, the others left at their defaults.

    Each option that typer reads costs a fifth of a millisecond. Every option is spelt like its parameter, which a test
    holds; where anything else was typed, all are built, so that help and errors know them.
    """
    signature = inspect.signature(command)
    spelt = {f"--{name.rstrip('_').replace('_', '-')}": name for name in signature.parameters}
    words = [word.partition("=")[0] for word in typed if word.startswith("-")]
    if not all(word in spelt for word in words):
        return command
    names = {spelt[word] for word in words}

    @functools.wraps(command)
    def lean(**values: object) -> None:
        command(**values)

    kept = [parameter for name, parameter in signature.parameters.items() if name in names]
    known = command.__globals__
    lean.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter.replace(annotation=eval(parameter.annotation, known)) for parameter in kept],
        return_annotation=None,
    )
    lean.__annotations__ = {}
    return lean


def _version(value: bool) -> None:
    if value:
        typer.echo(f"optadvise {__version__}")
        raise typer.Exit


def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Which optimizer, with which numbers, will it fit, and what does it cost here?"""
    if debug:
        os.environ["OPTADVISE_DEBUG"] = "1"


# typer has its own copy of click since 0.26, so its errors are named through what it exports.
_USAGE_ERRORS: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line and exit."""
    if sys.stdout is None:  # closed by the shell, as in >&-
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets ? instead of a traceback
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: What stands after the program's name.
    """
    first = next((word for word in arguments if not word.startswith("-")), None)
    app = build([first], arguments) if first in COMMANDS else build()
    try:
        code = app(args=arguments, prog_name="optadvise", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # typer says nothing when it is interrupted
            print("optadvise: interrupted", file=sys.stderr)
    except OptadviseError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe has gone, as in `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        return 0
    except OSError as error:
        if error.filename is not None:
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        return _fail(f"the output cannot be written ({error.strerror}); send it elsewhere", 4)
    except _USAGE_ERRORS as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(f"{error}\n")
            return 0
        message = getattr(error, "format_message", error.__str__)()
        return _fail(f"{message.rstrip('.')}; see optadvise {_command(error)}--help", 2)
    except Exception as error:
        if "optadvise.ruleset" not in sys.modules:
            raise
        return _blamed(error)
    return code if isinstance(code, int) else 0


def _blamed(error: Exception) -> int:
    """Tell an error that only a folder of further rules can have caused; any other is ours, and stays a traceback.

    What such folders hold is read against shapes and proven, but not every value is known to make sense.
    """
    from optadvise.ruleset import in_use

    folders = in_use()
    if not folders:
        raise error
    what = f"{type(error).__name__}: {error}"[:200]
    message = f"{', '.join(folders)}: these rules lead to an error ({what}); optadvise --debug shows where"
    return _fail(message, RuleFileError.exit_code)


def _command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    name = getattr(context, "info_name", None)
    return f"{name} " if name and name not in ("optadvise", "root") else ""


def _fail(message: str, code: int) -> int:
    if os.environ.get("OPTADVISE_DEBUG"):
        import traceback

        traceback.print_exc()
    line = printable(" ".join(message.split("\n")))
    print(f"optadvise: {line}", file=sys.stderr)
    return code
