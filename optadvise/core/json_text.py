"""JSON text of records, as the commands print and write it."""

from __future__ import annotations

import json

import msgspec


def encode_json(record: object, indent: int | None = 1) -> str:
    """Return a record as JSON text that ends with a newline.

    Args:
        record: A record, or a container of records.
        indent: Spaces per level; None for a single line.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON does not have.
    """
    return json.dumps(msgspec.to_builtins(record), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
