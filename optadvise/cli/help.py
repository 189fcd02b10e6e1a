"""Help pages: options and commands under headings, examples below them, nothing cut short."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

EXIT_CODES = (
    "Exit codes: 0 done; 1 a check said no; 2 the command line or an input is wrong; 3 rule or result files are "
    "invalid; 4 could not run here; 5 inconclusive; 130 interrupted."
)


def epilog(*examples: str) -> str:
    """Return what stands below a help page.

    Args:
        *examples: Command lines.
    """
    shown = "\n".join(f"  {line}" for line in examples)
    return f"\b\nExamples:\n{shown}\n\n{EXIT_CODES}" if examples else EXIT_CODES


class GroupedCommand(TyperCommand):
    """A command whose options stand under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write them."""
        _options(self, ctx, formatter)


class GroupedGroup(TyperGroup):
    """A group of commands that stand under headings, each with its whole first sentence."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        _options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands."""
        found: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = getattr(command, "rich_help_panel", None) or "Commands"
                found.setdefault(heading, []).append((name, summary(command)))
        _sections(formatter, found)


def summary(command: Any) -> str:
    """Return the first sentence of a command's help."""
    return str(command.help or "").split("\n\n")[0].replace("\n", " ").strip()


def by_heading(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return a command's arguments and options with their help, by their heading.

    Args:
        command: The command.
        ctx: Its context.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
            heading = getattr(parameter, "rich_help_panel", None) or plain
            found.setdefault(heading, []).append(
                (record[0].replace(" <str>", " TEXT").replace(" <path>", " FILE"), record[1])
            )
    return found


def _options(command: Any, ctx: Any, formatter: Any) -> None:
    _sections(formatter, by_heading(command, ctx))


def _sections(formatter: Any, found: dict[str, list[tuple[str, str]]]) -> None:
    widest = max((len(name) for rows in found.values() for name, _ in rows), default=0)
    for heading, rows in found.items():
        with formatter.section(heading):
            # One width for all, so that the columns of the sections stand below each other.
            formatter.write_dl([(name.ljust(min(widest, 28)), words) for name, words in rows])
