"""Shell completion of the names and values that the rules define."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from optadvise.core.errors import OptadviseError

if TYPE_CHECKING:
    from optadvise.rulebase.catalog import Catalog

Offer = Callable[[str], list[tuple[str, str]]]


def of(*sources: str) -> Offer:
    """Return a completer for the values of sources.

    Args:
        *sources: `optimizers`, `schedules`, `gpus`, `shapes`, `words`, `rules`, `surfaces`, `claims`, or the name of a
            fact.
    """

    def offer(incomplete: str) -> list[tuple[str, str]]:
        try:
            from optadvise.rule_analysis import rule_folders

            catalog = rule_folders.load_catalog(None)
            pairs = [pair for source in sources for pair in _list_values(catalog, source)]
        except OptadviseError:  # the command itself will report it
            return []
        typed = incomplete.lower().replace("_", "-")
        # The shell would complete the second line of a wrapped help text as a value.
        matches = [(value, help_) for value, help_ in pairs if value.lower().startswith(typed)]
        return [(value, shorten(help_, 60, placeholder=" …")) for value, help_ in matches]

    return offer


def among(choices: Iterable[str]) -> Offer:
    """Return a completer for fixed values.

    Args:
        choices: The values.
    """
    values = list(choices)
    return lambda incomplete: [(value, "") for value in values if value.startswith(incomplete)]


def _list_values(catalog: Catalog, source: str) -> Iterable[tuple[str, str]]:
    """Return the values of a source with their help."""
    if source == "optimizers":
        return [(name, catalog.optimizer(name).summary) for name in catalog.optimizer_ids]
    if source == "schedules":
        return [(name, catalog.scheduler(name).summary) for name in catalog.scheduler_ids]
    if source == "gpus":
        return [(gpu.id, f"{gpu.name}, {gpu.memory_gib:g} GiB") for gpu in catalog.gpus]
    if source == "shapes":
        from optadvise.memory.networks import load_networks

        return [(name, shape.family) for name, shape in load_networks(catalog).shapes.items()]
    if source == "surfaces":
        return [(name, surface.formula) for name, surface in catalog.surfaces.items()]
    if source == "claims":
        return [(name, claim.claim) for name, claim in catalog.claims.items()]
    if source == "words":
        return [
            (word, str({**group.usual, **group.facts}["model"]))
            for group in catalog.words.groups
            for word in group.words
        ]
    if source == "rules":
        return [(rule.id, rule.name) for table in catalog.base.tables.values() for rule in table.all_rules]
    values: Mapping[str, Any] = catalog.facts[source].values or {}
    return [(value, str(help_)) for value, help_ in values.items()]
