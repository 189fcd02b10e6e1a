"""Managed memory of bitsandbytes' paged optimizers, which no counter of the allocator includes."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from typing import Any

from tests.cuda_stand_in.gpu import Machine


class ManagedLibrary:
    """Native library of bitsandbytes for the CPU, with the functions for managed memory."""

    def __init__(self, library: Any, machine: Machine) -> None:
        """Store the library, which has all other functions."""
        self._library, self._machine = library, machine
        self._buffers: list[object] = []  # bitsandbytes never frees managed memory

    def __getattr__(self, name: str) -> Any:
        """Return another function of the library."""
        return getattr(self._library, name)

    def cget_managed_ptr(self, size: ctypes.c_size_t) -> int:
        """Allocate managed memory and return its address."""
        buffer = (ctypes.c_char * size.value)()
        self._buffers.append(buffer)
        self._machine.log("managed", self._machine.get().index, size.value)
        return ctypes.addressof(buffer)

    def cprefetch(self, pointer: ctypes.c_void_p, size: ctypes.c_size_t, device: ctypes.c_int32) -> None:
        """Do nothing: all memory is that of the CPU."""

    def cfill_fp32(self, pointer: ctypes.c_void_p, other: None, value: ctypes.c_float, count: ctypes.c_int64) -> None:
        """Fill an array of fp32 numbers with zeros."""
        self._fill_zeros(pointer, value.value, 4 * count.value)

    def cfill_uint8(self, pointer: ctypes.c_void_p, other: None, value: ctypes.c_uint8, count: ctypes.c_int64) -> None:
        """Fill an array of bytes with zeros."""
        self._fill_zeros(pointer, value.value, count.value)

    def _fill_zeros(self, pointer: ctypes.c_void_p, value: float, size: int) -> None:
        assert value == 0
        ctypes.memset(pointer, 0, size)


def install(machine: Machine) -> None:
    """Replace the library of bitsandbytes, if it is installed.

    It must be imported before torch lists GPUs, because it then loads its library for CUDA, which requires a driver.
    """
    with contextlib.suppress(ImportError):
        functional = importlib.import_module("bitsandbytes.functional")
        functional.lib = ManagedLibrary(functional.lib, machine)  # type: ignore[attr-defined]
