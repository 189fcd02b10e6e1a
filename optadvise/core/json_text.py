"""JSON text of records, as printed and written by the commands."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeAlias

import msgspec

from optadvise.core.text import is_printable

JsonObject: TypeAlias = dict[str, Any]  # decoded JSON without a declared schema, or plain data to encode


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """JSON output with a schema version. Keys may be added, but not renamed."""

    schema_version: Literal[1] = 1


def encode_json(record: object, indent: int | None = 1) -> str:
    """Return a record as JSON text that ends with a newline; invisible characters are escaped.

    Args:
        indent: Spaces per level; None for a single line.

    Raises:
        ValueError: The record contains NaN or infinity, which JSON does not support.
    """
    text = json.dumps(msgspec.to_builtins(record), indent=indent, ensure_ascii=False, allow_nan=False)
    for character in {*text}:
        if not is_printable(character):
            text = text.replace(character, json.dumps(character)[1:-1])
    return f"{text}\n"


def to_json_object(record: msgspec.Struct) -> JsonObject:
    """Return a record as the plain data that `json.loads` would return."""
    data: JsonObject = json.loads(encode_json(record))
    return data
