"""JSON Schemas of results, generated from their records."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from optadvise.core.json_text import JsonObject

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_WIDTH = 126  # maximum line length of a schema's text


def result_schema(record: type[msgspec.Struct], title: str, *, require_defaults: bool = False) -> str:
    """Return the JSON Schema of a record as JSON text.

    Args:
        record: The record of a complete result; its docstring becomes the description.
        require_defaults: Require fields with a default as well, except fields that can be unset. Not for results
            that are read from files of earlier versions.
    """
    schema = msgspec.json.schema(record, schema_hook=_describe_unset)
    if require_defaults:
        for definition in schema["$defs"].values():
            _require_defaults(definition)
    return format_schema({"$schema": _DRAFT, "title": title, **schema})


def _describe_unset(kind: type) -> dict[str, object]:
    """Return the schema of an unset field."""
    if kind is msgspec.UnsetType:
        return {"not": {}}
    raise NotImplementedError(kind)


def _require_defaults(definition: JsonObject) -> None:
    required = set(definition.get("required", ()))
    for name, field in definition.get("properties", {}).items():
        if "default" in field:
            del field["default"]
            required.add(name)
    definition["required"] = [name for name in definition["properties"] if name in required]


def format_schema(schema: Mapping[str, object]) -> str:
    """Return a schema as compact, indented JSON text."""
    return _format(dict(schema)) + "\n"


def _format(value: object, indent: int = 0) -> str:
    """Return JSON text with one line per value if it fits, and always for lists of plain values."""
    line = json.dumps(value, ensure_ascii=False)
    is_plain_list = isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)
    if len(line) + indent <= _WIDTH or not isinstance(value, (dict, list)) or is_plain_list:
        return line
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_format(inner, indent + 1)}" for key, inner in value.items()]
    else:
        parts = [_format(inner, indent + 1) for inner in value]
    begin, end = ("{", "}") if isinstance(value, dict) else ("[", "]")
    separator = ",\n" + " " * (indent + 1)
    return f"{begin}\n{' ' * (indent + 1)}{separator.join(parts)}\n{' ' * indent}{end}"
