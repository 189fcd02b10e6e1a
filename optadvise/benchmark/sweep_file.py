"""Reads a sweep: the optimizers and the options of `bench` that are gone through, each one value or a list."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.yaml_reader import Context, checked, many, mapping, plain, record, shaped, text
from optadvise.rulebase.shapes import identifier

_MOST_CELLS = 10_000


@shaped({"type": ["string", "number", "boolean", "array"]})
def _values(node: yaml.Node, context: Context) -> list[str]:
    """Read one value or several, each as it would be typed."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes:
        context.fail(node, "an empty list measures nothing; leave the option out")
    return [str(text(one, context)) for one in nodes]


def read_sweep(file: Path, options: Iterable[str]) -> tuple[list[str], dict[str, list[str]], dict[str, Any]]:
    """Return the optimizers as they are spelt, the values of each option, and what a cluster is asked for.

    Args:
        file: The sweep.
        options: The options that there are, by their names without dashes.

    Raises:
        InputError: The file cannot be read.
        RuleFileError: It is invalid; the message says where.
    """
    known = list(options)
    shape = record(
        {"optimizers": many(text, 1)}, {**dict.fromkeys(known, _values), "slurm": mapping(identifier, plain)}
    )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{str(file)!r}: cannot be read ({error.strerror}); name a sweep, as in sweep.yaml") from error
    read, _, _ = checked(shape, content, str(file), {})
    grid = {name: read[name] for name in known if name in read}
    for name, values in {"optimizers": read["optimizers"], **grid}.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise RuleFileError(f"`{name}` has {twice[0]} twice; keep one", str(file))
    count = len(read["optimizers"])
    for values in grid.values():
        count *= len(values)
    if count > _MOST_CELLS:
        raise RuleFileError(f"{count:,} cells; at most {_MOST_CELLS:,} make a sweep", str(file))
    return read["optimizers"], grid, read.get("slurm", {})
