"""Differences in the GPU's driver, settings, clocks and load that can explain a difference between two results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from optadvise.benchmark.field_labels import GPU, GPU_SETTINGS
from optadvise.benchmark.gpu_records import GpuConditions, GpuSettings
from optadvise.benchmark.records import Environment
from optadvise.core.units import show_bytes

_CLOCKS = {"sm_clock_mhz": "SM clock", "memory_clock_mhz": "memory clock"}
_CLOCK_TOLERANCE = 0.03  # relative; clocks vary by steps of 15 MHz with the temperature


def compare_gpus(base: Environment, new: Environment) -> Iterator[str]:
    """Yield the differences between the GPUs' conditions in two results, one line each; none where one is unknown."""
    lines = (line for pair in zip(base.list_gpus(), new.list_gpus(), strict=False) for line in _compare_pair(*pair))
    yield from dict.fromkeys(lines)
    if base.gpu_settings is not None and new.gpu_settings is not None:
        yield from _compare_fields(base.gpu_settings, new.gpu_settings, GPU_SETTINGS)
        yield from _compare_allocators(base.gpu_settings, new.gpu_settings)
    for side, environment in (("BASE", base), ("NEW", new)):
        processes = [process for gpu in environment.list_gpus() for process in gpu.other_processes or ()]
        if processes:
            used = sum(process.memory_bytes or 0 for process in processes)
            names = ", ".join(dict.fromkeys(process.name or str(process.pid) for process in processes))
            size = f" ({show_bytes(used)})" if used else ""
            yield f"other programs used the GPU in {side}: {names}{size}"


def _compare_pair(before: GpuConditions, after: GpuConditions) -> Iterator[str]:
    yield from _compare_fields(before, after, GPU)
    yield from _compare_clocks(before, after)


def _compare_fields(before: Struct, after: Struct, labels: Mapping[str, str]) -> Iterator[str]:
    for name, label in labels.items():
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None and old != new:
            yield f"{label}: {_show_value(old)} in BASE, {_show_value(new)} in NEW"


def _compare_allocators(before: GpuSettings, after: GpuSettings) -> Iterator[str]:
    if before.allocator != after.allocator:
        old, new = (settings.allocator or "default" for settings in (before, after))
        yield f"settings of torch's allocator: {old} in BASE, {new} in NEW"


def _compare_clocks(before: GpuConditions, after: GpuConditions) -> Iterator[str]:
    if before.end is None or after.end is None:
        return
    for name, label in _CLOCKS.items():
        old, new = getattr(before.end, name), getattr(after.end, name)
        if old and new and abs(new / old - 1) > _CLOCK_TOLERANCE:
            yield f"{label} after the last round: {old:.0f} MHz in BASE, {new:.0f} MHz in NEW"


def _show_value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
