"""Lists of GPUs, architectures and published runs as text."""

from __future__ import annotations

from itertools import groupby

from rich.markup import escape

from optadvise.core.units import show_bytes, show_count, show_number
from optadvise.render.inventory import GpuList, NetworkList, RecipeList
from optadvise.render.text.console import Page, format_heading, print_rows


def print_gpus(gpus: GpuList) -> None:
    """Print a line for each GPU."""
    rows = [
        (gpu.id, show_bytes(gpu.memory_bytes), f"{gpu.bandwidth_gb_s:,.0f}", gpu.vendor, escape(gpu.name))
        for gpu in gpus.gpus
    ]
    with Page() as out:
        print_rows(
            out, rows, ("--gpu", "left"), ("memory", "right"), ("GB/s", "right"), ("vendor", "left"), ("", "wrap")
        )
        out.print("\nGB/s: peak memory bandwidth by the vendor. --json adds aliases and sources.")


def print_networks(networks: NetworkList) -> None:
    """Print the architectures by kind of model."""
    with Page() as out:
        for model, entries in groupby(networks.networks, key=lambda entry: entry.model):
            rows = [(entry.id, show_count(entry.params), escape(", ".join(entry.aliases))) for entry in entries]
            out.print(format_heading(f"--model {model}"))
            print_rows(out, rows, ("--arch", "left"), ("parameters", "right"), ("aliases", "wrap"))


def print_recipes(recipes: RecipeList) -> None:
    """Print the published runs by kind of model and task."""
    with Page() as out:
        for (model, task), entries in groupby(recipes.recipes, key=lambda recipe: (recipe.model, recipe.task)):
            rows = [
                (
                    recipe.id, "" if recipe.params is None else show_count(recipe.params),
                    recipe.optimizer, "" if recipe.lr is None else show_number(recipe.lr),
                )
                for recipe in entries
            ]  # fmt: skip
            out.print(format_heading(f"{model}, {task}"))
            print_rows(out, rows, ("run", "left"), ("parameters", "right"), ("optimizer", "left"), ("lr", "right"))
        out.print(f"\n{len(recipes.recipes)} published runs. --json adds the other numbers and the sources.")
