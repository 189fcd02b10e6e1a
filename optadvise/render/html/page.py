"""Standalone HTML pages without network requests or scripts; all texts from rules and files are escaped."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from optadvise.core.templates import create_environment
from optadvise.core.text import make_printable
from optadvise.core.units import show_bytes, show_count, show_max_count
from optadvise.render import headings
from optadvise.render.labels import format_sentence, format_typical_range
from optadvise.rulebase.hyperparameters import format_value

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
# Stricter than the standard: anything but a plain web address is shown without a link.
_WEB_ADDRESS = re.compile(r"https?://[^\s<>\"'`\\]+", re.IGNORECASE)


class PageOrigin(Struct, frozen=True):
    """Origin of a page: command, version, date and rules."""

    version: str
    command: str  # command line that prints the same result
    code: str | None = None  # program that trains with the recommendation
    stated: tuple[str, ...] = ()  # facts that were stated


def link(url: str | None) -> str | None:
    """Return a web address that a page may link to, None for any other text.

    Example:
        >>> link("https://arxiv.org/abs/1711.05101"), link("javascript:alert(1)")
        ('https://arxiv.org/abs/1711.05101', None)
    """
    return url if url is not None and _WEB_ADDRESS.fullmatch(url) else None


def render_page(template: str, context: Mapping[str, object]) -> str:
    """Return a template filled with its variables."""
    return _environment().get_template(template).render(context)


@functools.cache  # a benchmark writes its page after each round
def _environment() -> Environment:
    environment = create_environment(_TEMPLATES, _finalize)
    environment.filters |= {
        "link": link, "bytes": show_bytes, "count": show_count, "max_count": show_max_count, "value": format_value,
        "sentence": format_sentence,
    }  # fmt: skip
    environment.globals |= {"typical_range": format_typical_range, "headings": headings}
    return environment


def _finalize(value: Any) -> Any:
    """Return the text of a value: None as `unknown`, control characters escaped."""
    if value is None:
        return "unknown"
    return make_printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
