"""What a process takes of memory at its highest, and how fast the device moves bytes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import torch

from optadvise.benchmark.training_loop import Clock

if TYPE_CHECKING:
    from optadvise.benchmark.training_loop import Training

_COPIED_BYTES = 2**28  # large enough that no cache holds it


def transient_bytes(training: Training) -> int | None:
    """Take one step and return how far the optimizer's step rises above what is held before it; None off CUDA."""
    if not training.spec.device.startswith("cuda"):
        training.step()
        return None
    training.step()
    for optimizer in training.optimizers:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        optimizer.step()
        torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - held)


def peak_memory(device: str) -> dict[str, int | None]:
    """Return the peaks of this process so far: the allocator's on CUDA, and the process's own."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info()
        return {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "process": _process_on_device(total - free),
        }
    return {"allocated": None, "reserved": None, "process": peak_rss()}


def _process_on_device(fallback: int) -> int | None:
    """Return this process's memory on the device as the driver counts it, paged state included."""
    with contextlib.suppress(Exception):  # NVML may be missing, or hide processes in a container
        text = torch.cuda.list_gpu_processes()
        for line in text.splitlines():
            if f"process {os.getpid():>10d} uses" in line or f" {os.getpid()} " in line:
                return int(float(line.split("uses")[1].split("MB")[0]) * 2**20)
    return None


def peak_rss() -> int | None:
    """Return the largest resident set of this process so far in bytes; None where it cannot be read."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_bandwidth(device: str, repeats: int = 5) -> float:
    """Return the bytes a second that a large copy moves on this device, reading and writing counted."""
    source = torch.zeros(_COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    clock = Clock(device)
    best = float("inf")
    for _ in range(repeats + 1):
        clock.start()
        target.copy_(source)
        clock.mark()
        best = min(best, clock.seconds()[0])
    return 2 * _COPIED_BYTES / best
