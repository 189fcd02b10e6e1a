"""JSON records of `list --gpus`, `list --networks` and `list --recipes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from optadvise.core.json_text import Document
from optadvise.core.recipe_cards import Recipe
from optadvise.memory.architectures import build_named_shape
from optadvise.memory.network_size import count_parameters
from optadvise.memory.networks import load_networks
from optadvise.memory.rules import MemoryRules
from optadvise.rulebase.catalog import Catalog


class GpuEntry(Struct, frozen=True, kw_only=True):
    """GPU that `--gpu` accepts."""

    id: str
    name: str
    vendor: str
    memory_bytes: int
    bandwidth_gb_s: float  # peak memory bandwidth by the vendor
    bf16: bool  # computes in bf16
    aliases: tuple[str, ...]
    cite: str


class GpuList(Document, frozen=True, kw_only=True):
    """`optadvise list --gpus --json`."""

    kind: Literal["gpus"] = "gpus"
    gpus: tuple[GpuEntry, ...]


class NetworkEntry(Struct, frozen=True, kw_only=True):
    """Network that `--arch` accepts."""

    id: str
    model: str
    family: str
    params: int
    aliases: tuple[str, ...]


class NetworkList(Document, frozen=True, kw_only=True):
    """`optadvise list --networks --json`."""

    kind: Literal["networks"] = "networks"
    networks: tuple[NetworkEntry, ...]


class RecipeList(Document, frozen=True, kw_only=True):
    """`optadvise list --recipes --json`: what a source does not state is absent."""

    kind: Literal["recipes"] = "recipes"
    recipes: tuple[Recipe, ...]


def list_recipes(catalog: Catalog, selected: Mapping[str, object]) -> RecipeList:
    """Return the published runs by kind, task and id.

    Args:
        catalog: The catalog.
        selected: Facts of the runs, such as `{"model": "transformer", "task": "dpo"}`; empty for all runs.
    """
    recipes = (
        recipe for recipe in catalog.recipes if all(getattr(recipe, name) == value for name, value in selected.items())
    )
    ordered = sorted(recipes, key=lambda recipe: (recipe.model, recipe.task, recipe.id))
    return RecipeList(recipes=tuple(replace(recipe, at="") for recipe in ordered))


def list_gpus(catalog: Catalog) -> GpuList:
    """Return all GPUs in the order of the rule files."""
    return GpuList(
        gpus=tuple(
            GpuEntry(
                id=gpu.id, name=gpu.name, vendor=gpu.vendor, memory_bytes=gpu.memory_bytes,
                bandwidth_gb_s=gpu.bandwidth_gb_s, bf16=gpu.bf16, aliases=gpu.aliases, cite=gpu.cite,
            )
            for gpu in catalog.gpus
        )
    )  # fmt: skip


def list_networks(catalog: Catalog) -> NetworkList:
    """Return all named networks by kind of model and size."""
    rules, networks = MemoryRules(catalog), load_networks(catalog)
    entries = []
    for name, named in networks.shapes.items():
        shape = build_named_shape(networks, name)
        family = networks.find_family(shape)
        params = count_parameters(rules, shape)
        entries.append(
            NetworkEntry(id=name, model=family.model, family=shape.family, params=params, aliases=named.aliases)
        )
    return NetworkList(networks=tuple(sorted(entries, key=lambda entry: (entry.model, entry.params))))
