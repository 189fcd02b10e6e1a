"""Mutations of JSON and YAML data for tests of files that others wrote."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple, TypeAlias

from optadvise.core.text import is_printable

Path: TypeAlias = "tuple[str | int, ...]"  # keys and indexes

ESCAPES = "\x1b[31m=<img src=x>\u202e|`[y](javascript:z)[/b]\u200b\x9b\n# @team"
_DEEP: Any = 1
for _ in range(100):
    _DEEP = [_DEEP]
_OVERFLOW = "number that overflows"  # written as 1e400, which Python cannot write
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e99, 1e-320, float("nan"), _OVERFLOW, 10**400, "", ESCAPES, "=1+1", "\ud800", "x" * 100_000,
    [], {}, [[1]], _DEEP,
)  # fmt: skip


class Mutant(NamedTuple):
    """Changed data, with the change for the message of a failed test."""

    change: str
    data: Any


def list_paths(data: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value below a value; of long lists, only the first two."""
    if isinstance(data, (dict, list)):
        items = data.items() if isinstance(data, dict) else list(enumerate(data))[:2]
        for key, value in items:
            yield (*path, key)
            yield from list_paths(value, (*path, key))


def mutate(data: Any, count: int | None, seed: int = 0, values: tuple[Any, ...] = VALUES) -> Iterator[Mutant]:
    """Yield mutants of data: a deleted, replaced or added value in each.

    Args:
        data: JSON data.
        count: Number of mutants, drawn at random; None for all.
        seed: Of the draw.
        values: Replacements.
    """
    paths = list(list_paths(data))
    changes = [(path, number) for path in paths for number in range(-2, len(values))]
    if count is not None:
        changes = Random(seed).sample(changes, count)
    for path, number in changes:
        mutant = copy.deepcopy(data)
        parent = mutant
        for key in path[:-1]:
            parent = parent[key]
        if number == -1:
            del parent[path[-1]]
        elif number == -2 and isinstance(parent, dict):
            parent[ESCAPES] = parent[path[-1]]
        elif number == -2:
            parent.append(parent[path[-1]])
        else:
            parent[path[-1]] = values[number]
        action = {-1: "deleted", -2: "repeated"}.get(number, "")
        yield Mutant(f"{path} {action or repr(values[number])[:40]}", mutant)


def write_json(data: Any) -> str:
    """Return JSON, also of NaN, numbers that overflow and lone surrogates."""
    return json.dumps(data).replace(json.dumps(_OVERFLOW), "1e400")


def assert_harmless(text: str) -> None:
    """Check that a text controls no terminal and no viewer."""
    invisible = {character for character in text if not is_printable(character)}
    assert not invisible, invisible


def parse_finite(text: str) -> Any:
    """Return JSON that has no NaN and no infinity."""

    def reject(constant: str) -> None:
        raise AssertionError(f"JSON has {constant}")

    return json.loads(text, parse_constant=reject)
