"""Peak memory of this process, and the bandwidth of its device."""

from __future__ import annotations

import contextlib
import sys

import torch

from optadvise.benchmark.clock import Clock
from optadvise.benchmark.records import PeakMemory
from optadvise.benchmark.training_loop import Training
from optadvise.core.nvidia import list_nvidia_gpus

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_COPIED_BYTES = 2**28  # larger than the caches of CPUs
_CACHES = 8  # sizes of a GPU's cache that a copy has at least
_QUEUED = 8  # copies
_REPEATS = 6


def measure_transient_bytes(training: Training) -> int | None:
    """Run one step and return the most bytes that a `step()` allocates temporarily; None without CUDA."""
    if training.spec.device_type != "cuda":
        return None
    training.step()
    most = 0
    for optimizer in training.optimizers:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        optimizer.step()
        torch.cuda.synchronize()
        most = max(most, torch.cuda.max_memory_allocated() - allocated)
    return most


def read_peak_memory(device: str, context_bytes: int | None = None) -> PeakMemory:
    """Return the peak memory of this process so far.

    Args:
        device: Device of the measurement.
        context_bytes: GPU memory of this process outside torch's allocator; None if unknown.
    """
    if not device.startswith("cuda"):
        return PeakMemory(process=read_peak_rss())
    reserved = torch.cuda.max_memory_reserved()
    return PeakMemory(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=reserved,
        process=None if context_bytes is None else reserved + context_bytes,
    )


def read_used_bytes(device: str) -> int | None:
    """Return the bytes that all processes use on a GPU, as its driver reports; None if unknown or not on CUDA.

    The driver's list of processes is of no use in a container, whose process numbers differ.
    """
    if not device.startswith("cuda"):
        return None
    with contextlib.suppress(Exception):  # no nvidia-smi, or a GPU that it does not describe
        index = torch.device(device).index
        properties = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
        uuid = str(properties.uuid)
        return next(gpu.used_bytes for gpu in list_nvidia_gpus() if gpu.uuid.endswith(uuid))
    return None


def compute_context_bytes(used_before: int | None, used_now: int | None) -> int | None:
    """Return the GPU memory of this process outside torch's allocator: the CUDA context and libraries.

    Args:
        used_before: Bytes in use before this process used the GPU; None if unknown.
        used_now: Bytes in use now.
    """
    if used_before is None or used_now is None:
        return None
    reserved: int = torch.cuda.memory_reserved()
    return max(used_now - used_before - reserved, 0)


def read_peak_rss() -> int | None:
    """Return the peak resident set size of this process in bytes; None if it cannot be read."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_device_bandwidth(device: str) -> float:
    """Return the memory bandwidth of large copies in bytes per second, counting reads and writes.

    On CUDA several copies are queued, because the launch of a single one takes a noticeable part of its time.
    """
    copied_bytes, queued = _COPIED_BYTES, 1
    if device.startswith("cuda"):
        cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        copied_bytes = min(max(copied_bytes, _CACHES * cache), torch.cuda.mem_get_info()[0] // 4)
        queued = _QUEUED
    source = torch.zeros(copied_bytes // 4, device=device)
    target = torch.empty_like(source)
    clock = Clock(device)
    best = float("inf")
    for _ in range(_REPEATS):
        clock.start()
        for _ in range(queued):
            target.copy_(source)
        clock.mark()
        best = min(best, clock.seconds()[0])
    moved: int = 2 * queued * source.nbytes
    return moved / best
