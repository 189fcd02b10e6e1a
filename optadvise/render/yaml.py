"""YAML text of output records."""

from __future__ import annotations

import msgspec
import yaml


def render_yaml(record: msgspec.Struct) -> str:
    """Return an output record as YAML with numbers that every YAML parser reads as numbers."""
    return str(yaml.safe_dump(msgspec.to_builtins(record), sort_keys=False, allow_unicode=True, width=110))
