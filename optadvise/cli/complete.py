"""What the shell offers when Tab is pressed: names and words as the rules know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from optadvise.core.errors import OptadviseError

if TYPE_CHECKING:
    from optadvise.rulebase.catalog import Catalog

Offer = Callable[[str], list[tuple[str, str]]]


def of(*sources: str) -> Offer:
    """Return what offers the words of some sources that begin as was typed.

    Args:
        *sources: optimizers, schedules, gpus, shapes, rules, surfaces, claims, or a fact's name.
    """

    def offer(incomplete: str) -> list[tuple[str, str]]:
        from textwrap import shorten

        try:
            from optadvise.rule_analysis import rule_folders

            catalog = rule_folders.catalog(None)
            found = [pair for source in sources for pair in _words(catalog, source)]
        except OptadviseError:  # a shell's prompt is no place for it; the command itself will tell
            return []
        typed = incomplete.lower().replace("_", "-")
        # Longer lines are broken on the way to the shell, which then takes the rest for a word of its own.
        return [(word, shorten(help_, 60, placeholder=" …")) for word, help_ in found if word.lower().startswith(typed)]

    return offer


def among(words: Iterable[str]) -> Offer:
    """Return what offers some of a few words.

    Args:
        words: All there are.
    """
    known = list(words)
    return lambda incomplete: [(word, "") for word in known if word.startswith(incomplete)]


def _words(catalog: Catalog, source: str) -> Iterable[tuple[str, str]]:
    """Return words with a line about each."""
    if source == "optimizers":
        return [(name, catalog.optimizer(name).summary) for name in catalog.optimizer_ids]
    if source == "schedules":
        return [(name, catalog.scheduler(name).summary) for name in catalog.scheduler_ids]
    if source == "gpus":
        return [(gpu.id, f"{gpu.name}, {gpu.memory_gib:g} GiB") for gpu in catalog.gpus]
    if source == "shapes":
        return [(name, family) for name, (family, _) in catalog.shapes.items()]
    if source == "surfaces":
        return [(name, surface.formula) for name, surface in catalog.surfaces.items()]
    if source == "claims":
        return [(name, claim.claim) for name, claim in catalog.claims.items()]
    if source == "rules":
        return [(row["id"], str(row.get("name", "otherwise"))) for row in _rows(catalog)]
    values: Mapping[str, Any] = catalog.facts[source]["values"]
    return [(word, str(about)) for word, about in values.items()]


def _rows(catalog: Catalog) -> Iterable[Mapping[str, Any]]:
    for table in catalog.documents["tables"].values():
        yield from table["rules"]
        if "otherwise" in table:
            yield table["otherwise"]
