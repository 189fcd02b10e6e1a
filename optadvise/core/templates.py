"""jinja2 environments for generated programs and HTML pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def create_environment(folder: Path, finalize: Callable[[Any], object]) -> Environment:
    """Return a jinja2 environment that escapes inserted values and rejects undefined names.

    Args:
        folder: Folder of the templates.
        finalize: Converts a value after its filters to the inserted text.
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
