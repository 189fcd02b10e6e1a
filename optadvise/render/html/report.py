"""A page of HTML that stands alone: no network, no script, every word from rules or files escaped."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from optadvise.core.records import MemoryAnswer, Recommendation
from optadvise.core.text import make_printable
from optadvise.rulebase.catalog import Catalog

if TYPE_CHECKING:
    from jinja2 import Environment

    from optadvise.benchmark.records import BenchmarkResult

_TEMPLATES = Path(__file__).parent / "templates"
# Stricter than the standard on purpose: what is not plainly an address of the web is shown and not linked.
_WEB = re.compile(r"https?://[^\s<>\"'`\\]+", re.IGNORECASE)


class About(Struct, frozen=True):
    """What a page says of its own making."""

    version: str
    command: str  # gives the same again
    code: str | None = None  # a program that does what is advised
    said: tuple[str, ...] = ()  # the facts that were stated


def advice(advice: Recommendation, catalog: Catalog, about: About, fit: MemoryAnswer | None = None) -> str:
    """Return a recommendation as a page.

    Args:
        advice: The recommendation.
        catalog: Where cites, facts and names are looked up.
        about: How it was made.
        fit: What would make it fit, where it does not for certain.
    """
    from optadvise.render.html.advice import facts

    return _page("advice.html", {**facts(advice, catalog, fit, about.said), "about": about})


def bench(result: BenchmarkResult, about: About) -> str:
    """Return a measurement as a page.

    Args:
        result: The result of `optadvise bench`.
        about: How it was made.
    """
    from optadvise.render.html.benchmark import facts

    return _page("bench.html", {**facts(result), "about": about})


def link(url: str | None) -> str | None:
    """Return an address that a page may link to, None for any other.

    Example:
        >>> link("https://arxiv.org/abs/1711.05101"), link("javascript:alert(1)")
        ('https://arxiv.org/abs/1711.05101', None)
    """
    return url if url is not None and _WEB.fullmatch(url) else None


def _page(template: str, facts: Mapping[str, Any]) -> str:
    return _environment().get_template(template).render(facts)


@functools.cache  # a measurement writes its page after every round
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only a page pays for it

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["link"] = link
    return made


def _shown(value: Any) -> Any:
    """Return what stands for a value on the page: None is not known, and no letter acts on the text around it."""
    if value is None:
        return "not known"
    return make_printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
