"""Rendering of program templates; only values that a filter has converted to source can be inserted."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from optadvise.codegen import values
from optadvise.core.templates import create_environment

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"
FILTERS: dict[str, Callable[..., str]] = {
    "py": values.format_value,
    "name": values.check_name,
    "module": values.check_module,
    "path": values.check_path,
    "keywords": values.format_keywords,
    "comment": values.wrap_comment,
    "fit": values.fit_call,
    "dedent": textwrap.dedent,
    "each": values.repeat_for_each,
}


def render(template: str, *records: msgspec.Struct) -> str:
    """Return the text of a program.

    Args:
        template: File name in `templates/`.
        records: Records whose fields are the template's variables.

    Raises:
        RuleFileError: A value that must be a name or an import path is not.
    """
    context = {name: value for record in records for name, value in msgspec.structs.asdict(record).items()}
    return program_environment().get_template(template).render(context)


@functools.cache
def program_environment() -> Environment:
    """Return the environment of all templates; `{{ value }}` without a filter raises TypeError."""
    from markupsafe import Markup

    def mark(function: Callable[..., str]) -> Callable[..., str]:
        return lambda value, *options: Markup(function(str(value) if isinstance(value, Markup) else value, *options))

    def require_source(value: object) -> Markup:
        """Return the output of a filter or a macro; with `autoescape`, jinja2 marks the output of macros."""
        if not isinstance(value, Markup):
            raise TypeError(f"{value!r}: add a filter that converts it to source")
        return value

    environment = create_environment(FOLDER, require_source)
    environment.filters |= {name: mark(function) for name, function in FILTERS.items()}
    return environment
