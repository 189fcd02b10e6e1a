"""Counts the bytes of live tensors, by what they are for. Imports torch.

Why not `torch.distributed._tools.mem_tracker.MemTracker`: a step of a decoder of 7B parameters took it 24 s and this
2 s, for the same total to the byte; its snapshots, one a module, are what takes the time. It is private as well, and
some builds of torch come without `torch.distributed`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = ("weights", "gradients", "activations", "temporaries", "other")


class OutOfTime(BaseException):
    """The deadline has passed; no `except Exception` of a library may swallow it."""


class Elsewhere(Exception):  # noqa: N818, its name is what the user reads
    """A tensor is put on a device that is not there."""


class Tracker(TorchDispatchMode):  # type: ignore[misc]
    """Knows every storage that an operation made or touched, until it is freed.

    What an operation allocates for itself while it runs, such as a convolution's workspace, is not seen.
    """

    def __init__(self, device: str, *, deadline: float | None = None) -> None:
        """Begin with nothing.

        Args:
            device: The type of the device whose tensors count.
            deadline: On the clock of `time.monotonic`; an operation after it raises `OutOfTime`.
        """
        super().__init__()
        self.kind = "other"  # of what is made from now on
        self.bytes = dict.fromkeys(KINDS, 0)
        self.total = 0
        self.peak = 0
        self.running = False  # an operation, in which torch may call others
        self.at_peak = dict(self.bytes)
        self._device = device
        self._deadline = deadline
        self._known: dict[int, tuple[str, int, weakref.ref[Any]]] = {}

    def forget_peak(self) -> None:
        """Let the peak begin anew at what is alive."""
        self.peak, self.at_peak = self.total, dict(self.bytes)

    def add(self, tensors: Iterable[Tensor], kind: str) -> int:
        """Count tensors as a kind, also those that were counted as another.

        Returns:
            Bytes that no earlier tensor among them had.
        """
        return sum(self._count(storage, kind, again=True) for tensor in tensors for storage in self._storages(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it touched."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTime
        self.running = True
        try:
            result = func(*args, **kwargs or {})
        finally:
            self.running = False
        # Gradients are recorded within a backward pass only where a checkpointed part of the forward pass runs again.
        again = self.kind == "temporaries" and torch.is_grad_enabled()
        kind = "activations" if again else self.kind
        for values, what in ((args, "other"), ((result,), kind)):  # what was not made here was there before
            for tensor in _tensors(values):
                for storage in self._storages(tensor):
                    self._count(storage, what)
        if self.total > self.peak:
            self.forget_peak()
        return result

    def _storages(self, tensor: Tensor) -> Iterator[Any]:
        if hasattr(tensor, "__tensor_flatten__"):  # a wrapper, whose own storage has a size but is not there
            for name in tensor.__tensor_flatten__()[0]:
                yield from self._storages(getattr(tensor, name))
        elif tensor.device.type not in (self._device, "cpu", "meta"):
            raise Elsewhere(f"a tensor is put on {tensor.device}")
        elif tensor.device.type == self._device and tensor.layout is torch.strided:
            yield tensor.untyped_storage()
        elif tensor.device.type == self._device and tensor.layout is torch.sparse_coo:
            yield tensor._indices().untyped_storage()
            yield tensor._values().untyped_storage()

    def _count(self, storage: Any, kind: str, *, again: bool = False) -> int:
        key = storage._cdata
        known = self._known.get(key)
        if known is not None:
            if again and known[0] != kind:
                self.bytes[known[0]] -= known[1]
                self.bytes[kind] += known[1]
                self._known[key] = (kind, *known[1:])
            return 0
        size = int(storage.nbytes())
        self._known[key] = (kind, size, weakref.ref(storage, partial(self._freed, key)))
        self.bytes[kind] += size
        self.total += size
        return size

    def _freed(self, key: int, _: Any) -> None:
        kind, size, _ = self._known.pop(key)
        self.bytes[kind] -= size
        self.total -= size


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
