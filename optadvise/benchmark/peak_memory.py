"""Peak memory of this process, and the bandwidth of its device."""

from __future__ import annotations

import contextlib
import os
import sys

import torch

from optadvise.benchmark.clock import Clock
from optadvise.benchmark.records import PeakMemory
from optadvise.benchmark.training_loop import Training

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_COPIED_BYTES = 2**28  # larger than any cache
_COPIES = 6


def measure_transient_bytes(training: Training) -> int | None:
    """Run one step and return the bytes that `optimizer.step()` allocates temporarily; None without CUDA."""
    if not training.spec.device.startswith("cuda"):
        training.step()
        return None
    training.step()
    for optimizer in training.optimizers:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        optimizer.step()
        torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - allocated)


def read_peak_memory(device: str) -> PeakMemory:
    """Return the peak memory of this process so far."""
    if not device.startswith("cuda"):
        return PeakMemory(process=read_peak_rss())
    free, total = torch.cuda.mem_get_info()
    return PeakMemory(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        process=_read_process_memory(total - free),
    )


def _read_process_memory(fallback: int) -> int | None:
    """Return this process's GPU memory in bytes as the driver reports it, including paged state."""
    with contextlib.suppress(Exception):  # NVML may be missing, or hide processes in a container
        text = torch.cuda.list_gpu_processes()
        for line in text.splitlines():
            if f"process {os.getpid():>10d} uses" in line or f" {os.getpid()} " in line:
                return int(float(line.split("uses")[1].split("MB")[0]) * 2**20)
    return None


def read_peak_rss() -> int | None:
    """Return the peak resident set size of this process in bytes; None if it cannot be read."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_device_bandwidth(device: str) -> float:
    """Return the memory bandwidth of a large copy in bytes per second, counting reads and writes."""
    source = torch.zeros(_COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    clock = Clock(device)
    best = float("inf")
    for _ in range(_COPIES):
        clock.start()
        target.copy_(source)
        clock.mark()
        best = min(best, clock.seconds()[0])
    return 2 * _COPIED_BYTES / best
