"""Reads `rules/frameworks/`: what each framework calls an optimizer and a schedule, and what it cannot express.

Apart from the other rules and with a cache entry of its own, as only code generation and `show` need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from optadvise.core.errors import RuleFileError, nearest
from optadvise.core.schedules import QUANTITIES
from optadvise.core.yaml_reader import (
    Context,
    checked,
    flag,
    many,
    mapping,
    maybe,
    one_of,
    plain,
    record,
    reference,
    shaped,
    text,
)
from optadvise.rulebase.shapes import cites, distribution, identifier, word


@shaped({"type": ["string", "number", "boolean", "null", "array", "object"]})
def _setting(node: yaml.Node, context: Context) -> Any:
    return _settings(node, context) if isinstance(node, yaml.MappingNode) else plain(node, context)


_settings = mapping(identifier, _setting)
_optimizer = record(
    {"name": text, "takes": many(identifier, 1)},
    {"leaves": mapping(identifier, plain), "settings": _settings},
)
_schedule = record({"name": text}, {"settings": _settings, "differs": text})
framework = record(
    {"id": word, "name": text, "package": maybe(distribution), "writes": one_of("python", "yaml", "json"),
     "about": text, "cite": cites},
    {"any_class": flag, "two_optimizers": many(text), "client": text, "decays_all": text, "torch_classes": flag,
     "instead": mapping(text, text),
     "targets": mapping(text, identifier),
     "launch": text,
     "carries": many(reference("fact")),
     "arguments": mapping(identifier, many(identifier, 1)),
     "optimizers": mapping(reference("optimizer"), _optimizer),
     "schedules": mapping(reference("scheduler"), _schedule)},
    located=True,
)  # fmt: skip


def read_frameworks(
    contents: Sequence[tuple[int, Path, bytes]], known: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, Any]]:
    """Return every framework by its id; a later layer's takes the place of an earlier one's.

    Args:
        contents: Layer number, path and bytes of each file.
        known: The ids that a file may refer to, by their kind.

    Raises:
        RuleFileError: A file is invalid; the message says where.
    """
    found: dict[str, dict[str, Any]] = {}
    for _, file, content in contents:
        entry, node, context = checked(framework, content, str(file), known)
        if entry["id"] != file.stem:
            context.fail(node, f"the id {entry['id']!r} and the file name differ; call the file {entry['id']}.yaml")
        for name, schedule in entry.get("schedules", {}).items():
            for quantity in _quantities(schedule.get("settings", {})):
                if quantity not in QUANTITIES:
                    message = (
                        f"schedule {name!r} asks for ${quantity}, which no run has; {nearest(quantity, QUANTITIES)}"
                    )
                    raise RuleFileError(message, entry["at"])
        found[entry["id"]] = entry
    return found


def _quantities(settings: Any) -> Iterator[str]:
    """Yield the names that stand for quantities of a run, at any depth."""
    if isinstance(settings, Mapping):
        for value in settings.values():
            yield from _quantities(value)
    elif isinstance(settings, str) and settings.startswith("$"):
        yield settings[1:]
