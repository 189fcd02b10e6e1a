"""Help pages: options and commands by heading, then examples; nothing is truncated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from optadvise.cli.arguments import check_options, check_subcommand

EXIT_CODES = (
    "Exit codes: 0 success; 1 a check failed; 2 invalid command line or input; 3 invalid rule or result file; 4 cannot "
    "run on this machine; 5 inconclusive; 130 interrupted."
)

_METAVARS = {"str": "TEXT", "path": "FILE", "int": "N", "float": "NUMBER"}  # instead of typer's own
_TYPE = re.compile(r"<(?:list\[)?(\w+)\]?>")  # as typer writes it, from 0.29 on also for options that may repeat
_LAST_HEADINGS = ("Rules", "Output", "Options")  # shared by commands, below the headings of a command
_MAX_WIDTH = 26  # of an option's spelling; the help of longer ones begins on the next line


def format_epilog(*examples: str, sample: Sequence[str] = ()) -> str:
    """Return the text below a help page: examples, a sample file, then the exit codes.

    Args:
        *examples: Command lines.
        sample: Lines of a file that a command reads.
    """
    parts = {"Examples:": examples, "Sample FILE:": sample}
    paragraphs = ["\n".join(["\b", title, *(f"  {line}" for line in lines)]) for title, lines in parts.items() if lines]
    return "\n\n".join([*paragraphs, EXIT_CODES])


class GroupedCommand(TyperCommand):
    """Command whose help groups its options by heading."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command.

        Raises:
            InputError: An option does not exist, has no value, or has one too many.
        """
        if not ctx.resilient_parsing:  # completion of an incomplete command line
            check_options(self, ctx, args)
        return list(super().parse_args(ctx, args))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the placeholders of the usage line, in capitals as in the list of arguments."""
        arguments = [parameter for parameter in self.get_params(ctx) if parameter.param_type_name == "argument"]
        return ["[OPTIONS]", *(_name_argument(argument, in_usage=True) for argument in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options by heading."""
        _write_sections(formatter, group_by_heading(self, ctx))


class GroupedGroup(TyperGroup):
    """Group whose help lists its commands by heading, each with its whole first sentence."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name and the command of the first argument, and the other arguments.

        Raises:
            InputError: The command does not exist.
        """
        if not ctx.resilient_parsing:
            check_subcommand(self, ctx, args[0])
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        _write_sections(formatter, group_by_heading(self, ctx))
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = getattr(command, "rich_help_panel", None) or "Commands"
                sections.setdefault(heading, []).append((name, summarize(command)))
        _write_sections(formatter, sections)


def summarize(command: Any) -> str:
    """Return the first sentence of a command's help."""
    return str(command.help or "").split("\n\n")[0].replace("\n", " ").strip()


def group_by_heading(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return a command's arguments and options, each as its spelling and help, by heading in the order of the help.

    Args:
        command: The command.
        ctx: Its context.
    """
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        spelling, help_ = record
        is_argument = parameter.param_type_name == "argument"
        heading = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
        spelling = _TYPE.sub(lambda match: _METAVARS.get(match[1].lower(), match[0]), spelling)
        sections.setdefault(heading, []).append((_name_argument(parameter) if is_argument else spelling, help_))
    last = [heading for heading in _LAST_HEADINGS if heading in sections]
    return {heading: sections[heading] for heading in [*(name for name in sections if name not in last), *last]}


def _name_argument(argument: Any, *, in_usage: bool = False) -> str:
    """Return the placeholder of an argument: FILE, or [FILE] in the usage line if it is optional."""
    name = argument.metavar or argument.name.upper()
    shown = f"[{name}]" if in_usage and not argument.required else name
    return shown if argument.nargs == 1 else f"{shown}..."


def _write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    widest = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
    for heading, rows in sections.items():
        with formatter.section(heading):
            # One width for all sections, so that their columns are aligned.
            formatter.write_dl([(name.ljust(min(widest, _MAX_WIDTH)), help_) for name, help_ in rows], _MAX_WIDTH)
