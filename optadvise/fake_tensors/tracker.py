"""Count the bytes of live tensors, by what they are for. Imports torch.

`torch.distributed._tools.mem_tracker.MemTracker` is not used: for a step of a decoder of 7B parameters it took 24 s,
this module 2 s, with the same total to the byte; its snapshots of every module take the time. It is also private, and
some builds of torch come without `torch.distributed`.
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
    """The deadline has passed. Not an `Exception`, so that no library catches it."""


class Elsewhere(Exception):  # noqa: N818, its name is what the user reads
    """A tensor is placed on a device that does not exist."""


@dataclass(slots=True)
class _Storage:
    """A storage that is counted."""

    kind: str
    size: int  # bytes
    reference: weakref.ref[UntypedStorage]  # removes it when it is freed


class Tracker(TorchDispatchMode):  # type: ignore[misc]
    """Track every storage that an operation created or touched, until it is freed.

    What an operation allocates for itself while it runs, such as a convolution's workspace, is not counted.
    """

    def __init__(self, device: str, *, deadline: float | None = None) -> None:
        """Start without tensors.

        Args:
            device: Type of the device whose tensors are counted.
            deadline: Time of `time.monotonic` after which an operation raises `OutOfTime`; None for no limit.
        """
        super().__init__()
        self.kind = "other"  # of tensors created from now on
        self.bytes = dict.fromkeys(KINDS, 0)
        self.total = 0
        self.peak = 0
        self.is_running = False  # an operation is, in which torch may call others
        self.at_peak = dict(self.bytes)
        self._device = device
        self._deadline = deadline
        self._storages: dict[int, _Storage] = {}

    def reset_peak(self) -> None:
        """Set the peak to what is alive now."""
        self.peak, self.at_peak = self.total, dict(self.bytes)

    def add(self, tensors: Iterable[Tensor], kind: str) -> int:
        """Count tensors as a kind, also those counted as another before.

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
        # Gradients are recorded within a backward pass only where a checkpointed part of the forward pass runs again.
        is_recomputation = self.kind == "temporaries" and torch.is_grad_enabled()
        kind = "activations" if is_recomputation else self.kind
        for values, values_kind in ((args, "other"), ((result,), kind)):  # unknown arguments existed before
            for tensor in _find_tensors(values):
                for storage in self._find_storages(tensor):
                    self._count(storage, values_kind)
        if self.total > self.peak:
            self.reset_peak()
        return result

    def _find_storages(self, tensor: Tensor) -> Iterator[UntypedStorage]:
        if hasattr(tensor, "__tensor_flatten__"):  # a wrapper, whose storage has a size but no memory
            for name in tensor.__tensor_flatten__()[0]:
                yield from self._find_storages(getattr(tensor, name))
        elif tensor.device.type not in (self._device, "cpu", "meta"):
            raise Elsewhere(f"a tensor is put on {tensor.device}")
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
