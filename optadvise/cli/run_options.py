"""Options that describe a training run, built from `rules/facts.yaml`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.cli.complete import of
from optadvise.rulebase.catalog import Catalog, load_shipped
from optadvise.rulebase.condition_text import format_condition
from optadvise.rulebase.records import Assumption, Fact, RunInput

_MAX_DEFAULTS = 8  # conditional defaults that the help of an option lists
_MAX_METAVAR = 60  # characters
_METAVARS = {"number": "N", "bytes": "SIZE", "text": "TEXT", "file": "FILE"}


def add_run_options(command: Callable[..., None], typed: Sequence[str]) -> Callable[..., None]:
    """Return a command with the options of a run instead of its parameter `run`.

    Only options on the command line are built, as each costs a fifth of a millisecond. Any other option, such as
    `--help`, builds all of them, so that help and error messages list them.

    Args:
        command: Function whose first parameter maps option names to the typed text. Its other parameters are options of
            the same name.
        typed: The arguments of the command line.
    """
    catalog = load_shipped()  # a rule layer cannot add facts
    options = {option.flag: option for option in catalog.options if command.__name__ in option.commands}
    other_options = {
        f"--{name.rstrip('_').replace('_', '-')}": parameter
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if name != "run"
    }
    flags = {argument.partition("=")[0] for argument in typed if argument.startswith("-")}
    builds_all = not flags <= {*options, *other_options}
    parameters = [
        *(_make_parameter(option, _describe(option, catalog, command.__name__) if builds_all else None)
          for flag, option in options.items()
          if builds_all or flag in flags),
        *(parameter for flag, parameter in other_options.items() if builds_all or flag in flags),
    ]  # fmt: skip

    @functools.wraps(command)
    def call(**values: Any) -> None:
        run = {option.name: values.pop(option.name) for option in options.values() if option.name in values}
        command(run, **values)

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    call.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call


def _make_parameter(option: Fact | RunInput, help_: str | None) -> inspect.Parameter:
    """Return the parameter of one option."""
    is_flag = option.type == "flag"
    declared = typer.Option(
        option.flag,
        help=help_,
        metavar=None if is_flag else _format_metavar(option),
        rich_help_panel=option.group,
        show_default=False,
        autocompletion=_offer(option),
    )
    kind: Any = bool if is_flag else (Path if option.type == "file" else str) | None
    default = False if is_flag else None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def _format_metavar(option: Fact | RunInput) -> str:
    if isinstance(option, Fact) and option.values is not None:
        return option.id.upper() if _has_many_values(option) else f"[{'|'.join(option.values)}]"
    return "NAME" if isinstance(option, RunInput) and option.names else _METAVARS[option.type]


def _has_many_values(option: Fact | RunInput) -> bool:
    """Return whether an option has more values than fit in a line of the help, which then lists them."""
    return isinstance(option, Fact) and len("|".join(option.values or ())) > _MAX_METAVAR


def _offer(option: Fact | RunInput) -> Callable[[str], list[tuple[str, str]]] | None:
    """Return the completer of an option's value; None where the shell completes nothing."""
    if isinstance(option, RunInput):
        return of(option.names) if option.names else None
    if option.type != "choice":
        return None
    values = of(option.id)
    names = None if option.names is None else of(option.names)
    return values if names is None else lambda incomplete: values(incomplete) or names(incomplete)


def _describe(option: Fact | RunInput, catalog: Catalog, command: str) -> str:
    """Return an option's help with its default in a command."""
    missing = {other.id for other in catalog.options if command not in other.commands}  # options of other commands
    rows = [row for row in catalog.base.assume if row.fact == option.id and not missing.intersection(row.when)]
    default = "; ".join(_list_defaults(rows, catalog.facts))
    if isinstance(option, RunInput):
        default = option.defaults.get(command, default)
    text = option.help.rstrip(".")
    if isinstance(option, Fact) and _has_many_values(option):
        text += f": {', '.join(option.values or ())}"
    return f"{text} (default: {default})." if default and option.type != "flag" else f"{text}."


def _list_defaults(rows: Sequence[Assumption], facts: Mapping[str, Fact]) -> Iterator[str]:
    """Yield the general default, then the other defaults with their conditions."""
    if not rows:
        return
    if len(rows) > _MAX_DEFAULTS:
        flags = dict.fromkeys(str(facts[name].flag) for row in rows for name in row.when if facts[name].flag)
        yield f"depends on {', '.join(flags)}; otherwise {facts[rows[0].fact].otherwise}"
        return
    *special, general = rows
    if len(rows) == 1 or not general.when:
        yield str(general.value)
    else:
        special = [*rows]
    conditions: dict[str, list[str]] = {}
    for row in special:
        if all(facts[name].flag for name in row.when):
            conditions.setdefault(str(row.value), []).append(_format_condition(row, facts))
    for value, alternatives in conditions.items():
        yield f"{value} with {', or with '.join(alternatives)}"
    if len(special) == len(rows):
        yield f"otherwise {facts[rows[0].fact].otherwise}"


def _format_condition(row: Assumption, facts: Mapping[str, Fact]) -> str:
    """Return the options that a default requires: `--model transformer and --tokens but without --params`."""
    texts = {str(facts[name].flag): format_condition(accepted, " or ") for name, accepted in row.when.items()}
    required = [flag if text == "known" else f"{flag} {text}" for flag, text in texts.items() if text != "unknown"]
    excluded = [flag for flag, text in texts.items() if text == "unknown"]
    return " and ".join(required) + (f" but without {' and '.join(excluded)}" if excluded else "")
