"""Commands of the command line, and the conversion of errors into exit codes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Annotated

import typer
from msgspec import Struct

from optadvise.cli.arguments import check_arguments
from optadvise.cli.failures import Failure, classify_error, print_warnings, report_failure
from optadvise.cli.help import GroupedCommand, GroupedGroup, format_epilog
from optadvise.cli.interrupts import ignore_signals, install_handlers
from optadvise.cli.run_options import add_run_options
from optadvise.cli.spellings import JSON_FILE_COMMANDS, normalize_arguments
from optadvise.cli.streams import discard_stdout, flush_stdout, prepare_streams
from optadvise.core.version import __version__


class Command(Struct, frozen=True):
    """Definition of a command: its function, and its heading, examples and sample file in the help."""

    module: str
    function: str
    heading: str
    examples: tuple[str, ...]
    sample: tuple[str, ...] = ()  # lines of a file that the first example reads


_ADVICE, _MEASUREMENT, _KNOWLEDGE = "Advice", "Measurement", "Knowledge base"

# Only the command that a command line names is imported and built, as every option that typer reads costs time.
COMMANDS = {
    "recommend": Command(module="recommend", function="recommend", heading=_ADVICE, examples=(
        "optadvise recommend --model transformer --vram 24GB",
        "optadvise recommend --arch llama-3-8b --task finetune --method qlora",
        "optadvise recommend --model transformer --params 124M --format hf -o hf.py")),
    "estimate": Command(module="estimate", function="estimate", heading=_ADVICE, examples=(
        'optadvise estimate --params 7B --gpu "rtx 4090" --task finetune',
        "optadvise estimate --arch resnet50 --vram 8GB --batch-size 256 --all")),
    "schedule": Command(module="schedule", function="schedule", heading=_ADVICE, examples=(
        "optadvise schedule warmup-cosine --steps 100K --warmup 1K",
        "optadvise schedule wsd --compare one-cycle --plot lr.png")),
    "bench": Command(module="bench", function="bench", heading=_MEASUREMENT, examples=(
        "optadvise bench adamw8bit",
        "optadvise bench lion --require 'optimizer_seconds <= 1.3x'",
        "optadvise recommend --model transformer --json | optadvise bench -")),
    "compare": Command(module="compare", function="compare", heading=_MEASUREMENT, examples=(
        "optadvise compare old.json new.json --require 'step_seconds <= 1.05x'",)),
    "sweep": Command(module="sweep", function="sweep", heading=_MEASUREMENT, examples=(
        "optadvise sweep grid.yaml --folder cells --plot sweep.png",),
        sample=("optimizers: [adamw, lion]", "params: 1M", "precision: [fp32, bf16]", "rounds: 3")),
    "trajectories": Command(module="trajectories", function="trajectories", heading=_MEASUREMENT, examples=(
        "optadvise trajectories --surface rosenbrock",
        "optadvise trajectories adamw lion sgd-momentum --plot saddle.png")),
    "verify": Command(module="verify", function="verify", heading=_MEASUREMENT, examples=(
        "optadvise verify adamw lamb", "optadvise verify --import torch.optim.AdamW --as adamw")),
    "doctor": Command(module="doctor", function="doctor", heading=_MEASUREMENT, examples=("optadvise doctor",)),
    "list": Command(module="catalog", function="list_", heading=_KNOWLEDGE, examples=(
        "optadvise list --for transformer --max-state-bytes 4",)),
    "show": Command(module="catalog", function="show", heading=_KNOWLEDGE, examples=(
        "optadvise show adamw8bit", "optadvise show OPT060")),
    "rules": Command(module="rules", function="group", heading=_KNOWLEDGE, examples=("optadvise rules check",)),
}  # fmt: skip
_GROUPS = ("rules",)  # commands that have subcommands
_RUN_COMMANDS = ("recommend", "estimate")  # commands whose options describe a training run


def build(names: Collection[str] = COMMANDS, typed: Sequence[str] = ("--help",)) -> typer.Typer:
    """Return the command line with some of its commands.

    Args:
        names: The commands to build.
        typed: The command line, which decides which options are needed; `--help` needs all.
    """
    is_complete = len(names) == len(COMMANDS)
    app = typer.Typer(
        name="optadvise",
        cls=GroupedGroup,
        help=f"{root.__doc__}\n\n{_describe_guide()}" if is_complete else root.__doc__,
        epilog=format_epilog(),
        no_args_is_help=True,
        add_completion=is_complete,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(root)
    for name in names:
        entry = COMMANDS[name]
        heading, text = entry.heading, format_epilog(*entry.examples, sample=entry.sample)
        command = getattr(import_module(f"optadvise.cli.{entry.module}"), entry.function)
        if name in _GROUPS:
            app.add_typer(command(), name=name, epilog=text, rich_help_panel=heading, cls=GroupedGroup)
            continue
        if name in _RUN_COMMANDS:
            command = add_run_options(command, typed)
        app.command(name, cls=GroupedCommand, epilog=text, rich_help_panel=heading)(command)
    return app


def _describe_guide() -> str:
    """Return a paragraph about the article that the rules encode, which most sources cite as `guide#section`."""
    from optadvise.rulebase.catalog import load_shipped

    source = next(source for name, source in load_shipped().sources.items() if name.startswith("guide#"))
    title = source.title.partition(", section")[0]
    return (
        f'Guide: the rules encode the article "{title}" by {source.authors} ({source.year}, {source.url}); guide#NAME '
        "cites its section NAME. The other sources are papers and documentation."
    )


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"optadvise {__version__}")
        raise typer.Exit


def _show_manual(value: bool) -> None:
    if value:
        from optadvise.cli.manual import format_man_page

        typer.echo(format_man_page(typer.main.get_command(build())), nl=False)
        raise typer.Exit


def root(
    debug: Annotated[bool, typer.Option("--debug", help="Print the error code and the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    man: Annotated[
        bool, typer.Option("--man", callback=_show_manual, is_eager=True, help="Print the man page.")
    ] = False,
) -> None:
    """Recommend an optimizer and a schedule, estimate memory, and measure optimizers on this machine."""


def main() -> None:
    """Run the command line and exit."""
    prepare_streams()
    install_handlers()
    code = run(sys.argv[1:])
    with contextlib.suppress(OSError):  # `run` has already reported that stdout cannot be written
        flush_stdout()
    ignore_signals()
    sys.exit(code)


def run(arguments: list[str], report: Callable[[Failure, Sequence[str]], None] = report_failure) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: The arguments after the program's name.
        report: Prints a failure.
    """
    debug = ["--debug"] if "--debug" in arguments else []  # accepted at any place
    arguments = [argument for argument in arguments if argument != "--debug"]
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        with print_warnings():  # the options of `recommend` are derived from the rules, which may be read from a cache
            check_arguments(arguments)
            arguments = normalize_arguments(arguments)
            app = build([first], arguments) if first in COMMANDS else build()
            code = _invoke(app, arguments)
        if code == 130:  # typer prints nothing when it is interrupted
            has_printed = first in JSON_FILE_COMMANDS  # an incomplete result
            report(classify_error(KeyboardInterrupt()), debug if has_printed else [*debug, *arguments])
    except (Exception, KeyboardInterrupt) as error:
        failure = classify_error(error)
        if isinstance(error, OSError) and error.filename is None:  # an error of stdout
            discard_stdout()
        report(failure, [*debug, *arguments])
        return failure.exit_code
    return code


def _invoke(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run a command, or print the help of a group without a command, and return the exit code."""
    try:
        code = app(args=arguments, prog_name="optadvise", standalone_mode=False)
    except Exception as error:
        if type(error).__name__ != "NoArgsIsHelpError":
            raise
        sys.stdout.write(f"{error}\n")
        code = 0
    flush_stdout()
    return code if isinstance(code, int) else 0
