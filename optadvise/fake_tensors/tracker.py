"""Count of the bytes of live tensors, by kind. Imports torch.

`torch.distributed._tools.mem_tracker.MemTracker` gives the same total, but takes 24 s for a step of a decoder with 7B
parameters instead of 2 s, because it stores snapshots of every module. It is also private, and some builds of torch
have no `torch.distributed`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, UntypedStorage
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = ("weights", "gradients", "activations", "temporaries", "other")


class OutOfTime(BaseException):
    """The deadline has passed; not an `Exception`, so that libraries do not catch it."""


class UnknownDevice(Exception):  # noqa: N818, the name appears in the message
    """A tensor is on a device that does not exist."""


@dataclass(slots=True)
class _Storage:
    """Counted storage."""

    kind: str
    size: int  # bytes
    reference: weakref.ref[UntypedStorage]  # its callback removes the entry when the storage is freed


class Tracker(TorchDispatchMode):  # type: ignore[misc]
    """Dispatch mode that counts every storage that an operation creates or uses, until it is freed.

    Memory that an operation allocates internally, such as a convolution's workspace, is not counted.
    """

    def __init__(self, device: str, *, deadline: float | None = None) -> None:
        """Start without tensors.

        Args:
            device: Device type whose tensors are counted.
            deadline: Time of `time.monotonic` after which an operation raises `OutOfTime`; None for no limit.
        """
        super().__init__()
        self.kind = "other"  # kind of new tensors
        self.bytes = dict.fromkeys(KINDS, 0)
        self.total = 0
        self.peak = 0
        self.is_running = False  # within an operation, which may call other operations
        self.at_peak = dict(self.bytes)
        self._device = device
        self._deadline = deadline
        self._storages: dict[int, _Storage] = {}

    def reset_peak(self) -> None:
        """Set the peak to the current bytes."""
        self.peak, self.at_peak = self.total, dict(self.bytes)

    def add(self, tensors: Iterable[Tensor], kind: str) -> int:
        """Count tensors as a kind, also tensors that were counted as another kind.

        Returns:
            Bytes that were not counted before.
        """
        return sum(
            self._count(storage, kind, recount=True) for tensor in tensors for storage in self._find_storages(tensor)
        )

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        """Run an operation and count the storages that it touched."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTime
        self.is_running = True
        try:
            result = func(*args, **kwargs or {})
        finally:
            self.is_running = False
        # Gradients are enabled within the backward pass only during recomputation of a checkpointed block.
        is_recomputation = self.kind == "temporaries" and torch.is_grad_enabled()
        kind = "activations" if is_recomputation else self.kind
        for values, values_kind in ((args, "other"), ((result,), kind)):  # uncounted arguments existed before
            for tensor in _find_tensors(values):
                for storage in self._find_storages(tensor):
                    self._count(storage, values_kind)
        if self.total > self.peak:
            self.reset_peak()
        return result

    def _find_storages(self, tensor: Tensor) -> Iterator[UntypedStorage]:
        if hasattr(tensor, "__tensor_flatten__"):  # wrapper tensor, whose own storage has no memory
            for name in tensor.__tensor_flatten__()[0]:
                yield from self._find_storages(getattr(tensor, name))
        elif tensor.device.type not in (self._device, "cpu", "meta"):
            raise UnknownDevice(f"a tensor is on {tensor.device}, which this trace does not support")
        elif tensor.device.type == self._device and tensor.layout is torch.strided:
            yield tensor.untyped_storage()
        elif tensor.device.type == self._device and tensor.layout is torch.sparse_coo:
            yield tensor._indices().untyped_storage()
            yield tensor._values().untyped_storage()

    def _count(self, storage: UntypedStorage, kind: str, *, recount: bool = False) -> int:
        """Count a storage, and return its bytes if it was not counted before."""
        key = storage._cdata
        counted = self._storages.get(key)
        if counted is not None:
            if recount and counted.kind != kind:
                self.bytes[counted.kind] -= counted.size
                self.bytes[kind] += counted.size
                counted.kind = kind
            return 0
        size = int(storage.nbytes())
        self._storages[key] = _Storage(kind, size, weakref.ref(storage, partial(self._remove, key)))
        self.bytes[kind] += size
        self.total += size
        return size

    def _remove(self, key: int, _: object) -> None:
        """Stop counting a storage that was freed."""
        freed = self._storages.pop(key)
        self.bytes[freed.kind] -= freed.size
        self.total -= freed.size


def _find_tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _find_tensors(value)
