"""Detection of this machine's GPU, processor, cores and memory, without torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError

_PROGRAM = "nvidia-smi"
_TIMEOUT = 10.0  # seconds; nvidia-smi hangs if the driver does
_CGROUP = Path("/sys/fs/cgroup/memory.max")


class NvidiaGpu(Struct, frozen=True):
    """GPU that the NVIDIA driver lists."""

    name: str
    memory_bytes: int | None  # None for a GPU that shares the main memory
    driver: str
    uuid: str


def find_gpu() -> tuple[str, int]:
    """Return the name and the memory in bytes of this machine's smallest NVIDIA GPU.

    Raises:
        CannotRunHereError: The machine has no NVIDIA GPU, or its driver does not respond.
    """
    remedy = "use --vram 24GB or --gpu NAME"
    try:
        sizes = sorted((int(size) * 2**20, name) for name, size in _nvidia_smi("name", "memory.total"))
    except CannotRunHereError as error:
        raise _no_gpu_memory(f"{error}; {remedy}") from error
    except ValueError as error:
        raise _no_gpu_memory(f"nvidia-smi reports no memory size; {remedy}") from error
    if not sizes:
        raise _no_gpu_memory(f"nvidia-smi lists no GPU; {remedy}")
    return sizes[0][1], sizes[0][0]


def _no_gpu_memory(problem: str) -> CannotRunHereError:
    message = f"--vram auto: {problem}"
    return CannotRunHereError(message, code=ErrorCode.MISSING_DEVICE, option="--vram", value="auto")


def list_nvidia_gpus() -> list[NvidiaGpu]:
    """Return the GPUs that the NVIDIA driver lists, including those that torch cannot use; empty without a driver.

    Raises:
        CannotRunHereError: The driver does not respond.
    """
    if shutil.which(_PROGRAM) is None:
        return []
    rows = _nvidia_smi("name", "memory.total", "driver_version", "uuid")
    return [
        NvidiaGpu(name=name, memory_bytes=int(size) * 2**20 if size.isdigit() else None, driver=driver, uuid=uuid)
        for name, size, driver, uuid in rows
    ]


def _nvidia_smi(*fields: str) -> list[list[str]]:
    program = shutil.which(_PROGRAM)
    if program is None:
        raise CannotRunHereError("this machine has no NVIDIA driver (nvidia-smi)", code=ErrorCode.MISSING_DEVICE)
    query = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        output = getattr(error, "stdout", None)  # nvidia-smi prints errors such as a driver mismatch to stdout
        reason = output.strip().split("\n")[0][:200] if isinstance(output, str) else ""
        message = f"nvidia-smi failed{': ' if reason else ''}{reason}"
        raise CannotRunHereError(message, code=ErrorCode.MISSING_DEVICE) from error
    lines = process.stdout.splitlines()
    rows = [[cell.strip() for cell in line.rsplit(",", len(fields) - 1)] for line in lines if line]
    return [row for row in rows if len(row) == len(fields)]


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
