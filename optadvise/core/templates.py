"""Environments of jinja2 templates, for generated programs and for pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def create_environment(folder: Path, finalize: Callable[[Any], object]) -> Environment:
    """Return an environment that escapes what it inserts, and rejects names that the context of a template lacks.

    Args:
        finalize: Returns what is inserted for a value, after its filters.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
