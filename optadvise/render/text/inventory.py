"""Lists of GPUs and named networks as text."""

from __future__ import annotations

from rich.markup import escape

from optadvise.core.units import show_bytes, show_count
from optadvise.render.inventory import GpuList, NetworkList
from optadvise.render.text.console import Page, print_rows


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
    """Print a line for each named network."""
    rows = [
        (entry.id, show_count(entry.params), entry.model, escape(", ".join(entry.aliases)))
        for entry in networks.networks
    ]
    with Page() as out:
        print_rows(out, rows, ("--arch", "left"), ("parameters", "right"), ("--model", "left"), ("also", "wrap"))
