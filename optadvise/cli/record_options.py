"""Command-line options from records whose fields are annotated with `Option`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from msgspec import Struct, structs

from optadvise.benchmark.options import Option
from optadvise.cli.complete import among, of
from optadvise.cli.options import option


def with_options(**records: type[Struct]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces parameters of a command by the options of records.

    Args:
        **records: Record by parameter; all its fields have defaults.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            if name in records:
                parameters += _make_parameters(records[name])
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        def command(**values: Any) -> None:
            filled = {name: _fill_record(record, values) for name, record in records.items()}
            function(**values, **filled)

        command.__name__, command.__doc__, command.__module__ = function.__name__, function.__doc__, function.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _make_parameters(record: type[Struct]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(record, include_extras=True)
    for field in structs.fields(record):
        kind, declared = get_args(hints[field.name])
        is_repeated = get_origin(kind) is tuple
        flag = f"--{field.name.replace('_', '-')}"
        choices = () if declared.is_open else declared.choices
        shown = option(
            declared.help,
            flag,
            group=declared.group,
            completer=_offer(declared),
            choices=choices,
            metavar=declared.metavar or ("N" if declared.max_count else "NAME" if declared.catalog else None),
        )
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if is_repeated else field.default,
            annotation=Annotated[list[str] | None if is_repeated else kind, shown],
        )


def _offer(declared: Option) -> Callable[[str], list[tuple[str, str]]] | None:
    """Return the completer of an option; None where the shell completes nothing."""
    if declared.catalog is not None:
        return of(declared.catalog)
    return among(declared.choices) if declared.choices else None


def _fill_record(record: type[Struct], values: dict[str, Any]) -> Struct:
    """Return a record filled from `values`, and remove these from `values`."""
    fields = {field.name: values.pop(field.name) for field in structs.fields(record)}
    defaults: Mapping[str, Any] = {field.name: field.default for field in structs.fields(record)}
    return record(**{name: _to_field(value, defaults[name]) for name, value in fields.items()})


def _to_field(value: Any, default: Any) -> Any:
    """Return the value of a field; a repeatable option gives a tuple."""
    return tuple(value or ()) if isinstance(default, tuple) else value
