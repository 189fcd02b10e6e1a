"""Settings, networks and optimizers of the memory estimate, with cached results."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from optadvise.core.cards import Optimizer
from optadvise.memory.networks import Networks, load_networks
from optadvise.rulebase.catalog import Catalog


class MemoryRules:
    """Settings, networks and optimizers, and the caches of the functions that take them."""

    def __init__(self, catalog: Catalog) -> None:
        """Wrap a catalog; networks are read on first use."""
        self.catalog = catalog
        self.settings = catalog.memory
        self.caches: dict[Callable[..., Any], Callable[..., Any]] = {}

    @cached_property
    def networks(self) -> Networks:
        """Return the networks of the catalog."""
        return load_networks(self.catalog)

    def optimizer(self, name: str) -> Optimizer:
        """Return an optimizer's card by its id."""
        return self.catalog.optimizer(name)
