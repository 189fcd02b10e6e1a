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

_COPIED_BYTES = 2**28  # large enough that no cache holds it
_COPIES = 6


def transient_bytes(training: Training) -> int | None:
    """Take one step and return the memory that the optimizer's step allocates and frees again; None off CUDA."""
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


def peak_memory(device: str) -> PeakMemory:
    """Return the peaks of this process so far."""
    if not device.startswith("cuda"):
        return PeakMemory(process=peak_rss())
    free, total = torch.cuda.mem_get_info()
    return PeakMemory(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        process=_read_process_memory(total - free),
    )


def _read_process_memory(fallback: int) -> int | None:
    """Return this process's memory on the device as the driver counts it, paged state included."""
    with contextlib.suppress(Exception):  # NVML may be missing, or hide processes in a container
        text = torch.cuda.list_gpu_processes()
        for line in text.splitlines():
            if f"process {os.getpid():>10d} uses" in line or f" {os.getpid()} " in line:
                return int(float(line.split("uses")[1].split("MB")[0]) * 2**20)
    return None


def peak_rss() -> int | None:
    """Return the largest resident set of this process so far in bytes; None where it cannot be read."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_bandwidth(device: str) -> float:
    """Return the bytes a second that a large copy moves on this device, reading and writing counted."""
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
