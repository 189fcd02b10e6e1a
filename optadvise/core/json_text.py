"""JSON text of records, as the commands print and write it."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]  # decoded JSON whose keys are not declared, or plain data to be encoded


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON output with its header. Keys may be added, never renamed."""

    schema_version: Literal[1] = 1


def encode_json(record: object, indent: int | None = 1) -> str:
    """Return a record as JSON text that ends with a newline.

    Args:
        indent: Spaces per level; None for a single line.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON does not have.
    """
    return json.dumps(msgspec.to_builtins(record), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def to_json_object(record: msgspec.Struct) -> JsonObject:
    """Return a record as `json.loads` returns its text."""
    data: JsonObject = json.loads(encode_json(record))
    return data
