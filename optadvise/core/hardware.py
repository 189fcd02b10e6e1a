"""Detection of this machine's processor, cores and main memory, without torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def name_processor() -> str:
    """Return the processor's name, or its architecture if the name is not available."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def count_cores() -> int | None:
    """Return the number of cores that this process may use; None if unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def read_main_memory() -> int | None:
    """Return the bytes of main memory that this process may use; None if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(total, int(_CGROUP.read_text(encoding="ascii")))  # limit of a container
    except (OSError, ValueError):  # no limit: the file contains "max"
        return total
