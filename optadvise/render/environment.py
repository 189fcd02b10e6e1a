"""Machine and software of a benchmark, as labels and values."""

from __future__ import annotations

from collections.abc import Iterator

from optadvise.benchmark.field_labels import ENVIRONMENT, GPU, GPU_SETTINGS, GPU_STATE
from optadvise.benchmark.gpu_records import GpuConditions, GpuSettings, GpuState
from optadvise.benchmark.records import Environment
from optadvise.core.units import show_bytes

_UNKNOWN = "unknown"
_PLAIN = ("optadvise", "python", "platform", "processor", "cores", "load", "executable", "device", "device_name",
          "threads")  # fmt: skip


def list_environment(environment: Environment) -> Iterator[tuple[str, str]]:
    """Yield labels with units, and values; values that were not measured are unknown."""
    for name in _PLAIN:
        value = getattr(environment, name)
        if name != "device_name" or value is not None:  # which the CPU has not
            yield ENVIRONMENT.get(name, name), _show_value(value)
    for package, version in environment.packages.items():
        yield f"package {package}", version
    gpus = environment.list_gpus()
    for number, gpu in enumerate(gpus):
        prefix = f"GPU {number}: " if len(gpus) > 1 else ""
        yield from ((f"{prefix}{label}", text) for label, text in _list_gpu(gpu))
    if environment.gpu_settings is not None:
        yield from _list_settings(environment.gpu_settings)


def _list_gpu(gpu: GpuConditions) -> Iterator[tuple[str, str]]:
    yield "UUID", gpu.uuid
    yield "compute capability", _show_value(gpu.compute_capability)
    for name, label in GPU.items():
        yield label, _show_value(getattr(gpu, name))
    for time, state in (("start", gpu.start), ("end", gpu.end or GpuState())):
        for name, label in GPU_STATE.items():
            quantity, _, unit = label.partition(" (")
            yield f"{quantity} at {time} ({unit}", _show_value(getattr(state, name))
    yield "other programs on the GPU", _list_processes(gpu)


def _list_processes(gpu: GpuConditions) -> str:
    """Return the other programs on a GPU with their memory."""
    if gpu.other_processes is None:
        return _UNKNOWN
    programs = []
    for process in gpu.other_processes:
        size = f" ({show_bytes(process.memory_bytes)})" if process.memory_bytes else ""
        programs.append(f"{process.name or process.pid}{size}")
    return ", ".join(programs) or "none"


def _list_settings(settings: GpuSettings) -> Iterator[tuple[str, str]]:
    for name, label in GPU_SETTINGS.items():
        yield label, _show_value(getattr(settings, name))
    yield "settings of torch's allocator", settings.allocator or "default"


def _show_value(value: object) -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
