"""Sweep files: optimizers and options of `bench`, each one value or a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.yaml_reader import Context, checked, many, mapping, matching, plain, record, shaped, text
from optadvise.core.yaml_types import NAME_PATTERN

_MAX_CELLS = 10_000


class Grid(Struct, frozen=True):
    """Content of a sweep file."""

    optimizers: list[str]  # in any spelling
    options: dict[str, list[str]]  # values of each option, as they are typed
    job_parameters: Mapping[str, Any]  # of submitit, which checks them


@shaped({"type": ["string", "number", "boolean", "array"]})
def _values(node: yaml.Node, context: Context) -> list[str]:
    """Read one value or several, each as it would be typed."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes:
        context.fail(node, "an empty list measures nothing; leave the option out")
    return [str(text(each, context)) for each in nodes]


def read_sweep(file: Path, options: Iterable[str]) -> Grid:
    """Read a sweep file.

    Args:
        options: Names of the options that it may have, without dashes.

    Raises:
        InputError: The file cannot be read.
        RuleFileError: It is invalid; the message names the place.
    """
    accepted = list(options)
    shape = record(
        {"optimizers": many(text, 1)},
        {
            **dict.fromkeys(accepted, _values),
            "slurm": mapping(matching(NAME_PATTERN, "a name as Python takes it"), plain),
        },
    )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{str(file)!r}: cannot be read ({error.strerror}); name a sweep, as in sweep.yaml") from error
    data, _, _ = checked(shape, content, str(file), {})
    grid = Grid(data["optimizers"], {name: data[name] for name in accepted if name in data}, data.get("slurm", {}))
    _check_grid(grid, str(file))
    return grid


def _check_grid(grid: Grid, file: str) -> None:
    """Reject duplicate values and grids that are too large."""
    count = len(grid.optimizers)
    for name, values in {"optimizers": grid.optimizers, **grid.options}.items():
        duplicates = [value for value in values if values.count(value) > 1]
        if duplicates:
            raise RuleFileError(f"`{name}` has {duplicates[0]} twice; keep one", file)
    for values in grid.options.values():
        count *= len(values)
    if count > _MAX_CELLS:
        raise RuleFileError(f"{count:,} cells; at most {_MAX_CELLS:,} make a sweep", file)
