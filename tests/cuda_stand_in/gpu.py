"""GPUs of this process: memory of the caching allocator, kernel queue and errors."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tests.cuda_stand_in.memory import ProcessMemory
from tests.cuda_stand_in.settings import (
    BUSY,
    CONTEXT_BYTES,
    OUT_OF_MEMORY,
    Call,
    Gpu,
    Settings,
    list_visible,
    write_log,
)

_BLOCK = 512  # bytes to which the allocator rounds up
_SEGMENT = 2**21  # bytes to which it rounds up what it requests from the driver
_KERNEL_SECONDS = 2e-6  # minimum time of a kernel
_LOGGED_BYTES = 2**20  # kernels that move less are not logged


def make_error(message: str) -> RuntimeError:
    """Return the error that torch raises for an error of the CUDA runtime."""
    error: RuntimeError = getattr(torch, "AcceleratorError", RuntimeError)(message)
    return error


class GpuState:
    """One GPU, as this process uses it."""

    def __init__(self, gpu: Gpu, index: int, folder: Path) -> None:
        """Store the GPU; the first use creates a context."""
        self.gpu, self.index = gpu, index
        self.total_bytes = int(gpu.memory_gib * 2**30)
        self.allocated = self.peak_allocated = self.reserved = self.peak_reserved = 0
        self.queue_end = 0.0  # time at which the last kernel ends
        self.launches = 0
        self._memory = ProcessMemory(folder, gpu.uuid)
        self._has_context = False

    def use(self) -> None:
        """Create the context of this process, unless it exists."""
        if self._has_context:
            return
        with self._memory.lock() as other_bytes:
            if self.gpu.exclusive and other_bytes:
                raise make_error(BUSY)
            if other_bytes + CONTEXT_BYTES > self.total_bytes:
                raise make_error(OUT_OF_MEMORY)
            self._memory.write(CONTEXT_BYTES)
        self._has_context = True

    def allocate(self, size: int) -> None:
        """Count allocated bytes; raise OutOfMemoryError if the GPU has too little memory."""
        self.use()
        needed = self.allocated + size
        if needed > self.reserved:
            self._reserve(_round_up(needed, _SEGMENT), size)
        self.allocated = needed
        self.peak_allocated = max(self.peak_allocated, needed)

    def _reserve(self, needed: int, size: int) -> None:
        with self._memory.lock() as other_bytes:
            free = self.total_bytes - other_bytes - CONTEXT_BYTES - self.reserved
            if needed - self.reserved > free:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU {self.index} has a total "
                    f"capacity of {self.total_bytes / 2**30:.2f} GiB of which {max(free, 0) / 2**20:.2f} MiB is free. "
                    f"Of the allocated memory {self.allocated / 2**20:.2f} MiB is allocated by PyTorch, and "
                    f"{(self.reserved - self.allocated) / 2**20:.2f} MiB is reserved by PyTorch but unallocated."
                )
            self._set_reserved(needed)

    def release(self, size: int) -> None:
        """Count freed bytes, which stay reserved."""
        self.allocated -= size

    def empty_cache(self) -> None:
        """Release the reserved bytes that are not allocated."""
        if self._has_context:
            with self._memory.lock():
                self._set_reserved(_round_up(self.allocated, _SEGMENT))

    def _set_reserved(self, size: int) -> None:
        self.reserved = size
        self.peak_reserved = max(self.peak_reserved, size)
        self._memory.write(size + CONTEXT_BYTES)

    def read_free_bytes(self) -> int:
        """Return the bytes that no process uses."""
        self.use()
        with self._memory.lock() as other_bytes:
            return max(0, self.total_bytes - other_bytes - CONTEXT_BYTES - self.reserved)

    def launch(self, operation: str, size: int, host_time: float) -> None:
        """Add a kernel to the queue.

        Args:
            operation: Name of the operation.
            size: Bytes that it reads and writes.
            host_time: Time of the launch.
        """
        self.use()
        self.launches += 1
        if self.gpu.error is not None and self.launches >= self.gpu.error_at and self.gpu.error_in in operation:
            raise make_error(self.gpu.error)
        seconds = max(size / self.gpu.bandwidth, _KERNEL_SECONDS)
        self.queue_end = max(self.queue_end, host_time) + seconds
        if size >= _LOGGED_BYTES:
            write_log(Call(name="kernel", pid=os.getpid(), device=self.index, operation=operation, bytes=size))


class Machine:
    """GPUs and host of this process."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Create the GPUs that CUDA_VISIBLE_DEVICES lists."""
        self.settings = settings
        self.gpus = [GpuState(gpu, index, folder) for index, gpu in enumerate(list_visible(settings.gpus))]
        self.current = 0
        self._waited = 0.0  # seconds that this process would have waited for GPUs

    def get(self, index: int | None = None) -> GpuState:
        """Return a GPU, by default the current one."""
        if not self.gpus:
            raise RuntimeError("No CUDA GPUs are available")
        index = self.current if index is None else index
        if not 0 <= index < len(self.gpus):
            raise make_error("CUDA error: invalid device ordinal")
        return self.gpus[index]

    def resolve(self, device: object) -> int:
        """Return the index of a device as torch.cuda accepts it: None, a number, a text or a torch.device."""
        if isinstance(device, int):
            return device
        index = None if device is None else torch.device(device).index
        return self.current if index is None else index

    def read_clock(self) -> float:
        """Return the time of the host in seconds."""
        return time.perf_counter() + self._waited

    def launch(self, index: int, operation: str, size: int) -> None:
        """Launch a kernel."""
        if self.settings.seconds_per_launch:
            time.sleep(self.settings.seconds_per_launch)
        self.get(index).launch(operation, size, self.read_clock())

    def synchronize(self, index: int) -> None:
        """Advance the clock of the host to the end of a GPU's queue."""
        gpu = self.get(index)
        gpu.use()
        self._waited += max(0.0, gpu.queue_end - self.read_clock())

    def log(self, name: str, index: int, size: int = 0) -> None:
        """Write an entry for a call."""
        write_log(Call(name=name, pid=os.getpid(), device=index, bytes=size, launches=self.get(index).launches))


def round_allocation(size: int) -> int:
    """Return the bytes that the allocator uses for a tensor."""
    return _round_up(size, _BLOCK)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
