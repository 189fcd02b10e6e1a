"""Modes of torch that keep tensors "on CUDA" on the CPU and assign their storages to GPUs."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cuda_stand_in.gpu import Machine, round_allocation

Arguments: TypeAlias = "tuple[Any, ...]"
_HOST = -1
_MOVING = {torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu}


class Placement:
    """GPU of each storage."""

    def __init__(self, machine: Machine) -> None:
        """Start without storages."""
        self._machine = machine
        self._storages: dict[int, tuple[int, object]] = {}  # GPU and weak reference, by address

    def find(self, tensor: Tensor) -> int:
        """Return the index of a tensor's GPU; _HOST for a CPU tensor."""
        try:
            return self._storages[tensor.untyped_storage()._cdata][0]
        except (KeyError, NotImplementedError, RuntimeError):  # tensors of some subclasses have no storage
            return _HOST

    def assign(self, tensor: Tensor, index: int) -> None:
        """Count the storage of a new tensor on a GPU until it is freed; the storage of a view is already counted."""
        if tensor.device.type != "cpu":
            return
        storage = tensor.untyped_storage()
        address, size = storage._cdata, round_allocation(storage.nbytes())
        if address in self._storages:
            return
        gpu = self._machine.get(index)
        gpu.allocate(size)

        def free(_: object) -> None:
            del self._storages[address]
            gpu.release(size)

        self._storages[address] = index, weakref.ref(storage, free)


class KernelDispatch(TorchDispatchMode):  # type: ignore[misc]
    """Launches a kernel for each operation on CUDA tensors, and assigns its results to the GPU."""

    def __init__(self, machine: Machine, placement: Placement) -> None:
        """Store the GPUs and the placement of tensors."""
        super().__init__()
        self._machine, self._placement = machine, placement
        self.target: int | None = None  # destination of a factory or of a copy; None: the GPU of the operands

    def __torch_dispatch__(
        self, func: Any, types: object, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        """Run one operation."""
        kwargs = kwargs or {}
        operation = _describe(func)
        operands = [*_list_tensors(args), *_list_tensors(kwargs.values())]
        source = self._find_gpu(operation, operands)
        destination = source if self.target is None else self.target
        gpu = source if destination == _HOST else destination
        result = func(*args, **kwargs)
        if gpu == _HOST:
            return result
        results = list(_list_tensors((result,)))
        if operation.is_kernel:
            moved = {id(value): value.nbytes for value in (*operands, *results)}  # a result can be an operand
            self._machine.launch(gpu, operation.name, sum(moved.values()))
        if destination == _HOST or isinstance(result, (bool, int, float)):  # the host waits for the values
            self._machine.synchronize(gpu)
        else:
            for value in results:
                if not any(value is operand for operand in operands):  # of an operation in place
                    self._placement.assign(value, destination)
        return result

    def _find_gpu(self, operation: Operation, operands: Iterable[Tensor]) -> int:
        """Return the GPU of the operands, which must be on one device; _HOST without CUDA tensors."""
        places = [(self._placement.find(operand), operand) for operand in operands]
        indices = sorted({index for index, _ in places if index != _HOST})
        if not indices:
            # Autograd creates tensors of zeros on the device of the gradients.
            is_backward = torch._C._current_graph_task_id() != -1
            return self._machine.current if is_backward and not places and operation.is_kernel else _HOST
        if operation.accepts_devices:
            return indices[0]
        names = [f"cuda:{index}" for index in indices]
        # bitsandbytes passes its managed memory to its own operations only.
        if not operation.accepts_host and any(index == _HOST and operand.ndim for index, operand in places):
            names.append("cpu")
        if len(names) > 1:
            message = f"Expected all tensors to be on the same device, but found at least two devices, {names[0]} and"
            raise RuntimeError(f"{message} {names[1]}!")
        return indices[0]


class Operation(NamedTuple):
    """Properties of an operation of torch."""

    name: str
    is_kernel: bool
    accepts_devices: bool  # operands on any devices
    accepts_host: bool  # operands on one GPU and on the CPU; scalars can always be on the CPU


@functools.cache
def _describe(func: Any) -> Operation:
    name = str(func)
    is_kernel = func.namespace not in ("profiler", "prim") and not func.is_view and "empty" not in name
    return Operation(name, is_kernel, "copy" in name, func.namespace != "aten" or "index" in name)


def _list_tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """Yield the tensors of arguments, which can be in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _list_tensors(value)


class DeviceArguments(TorchFunctionMode):  # type: ignore[misc]
    """Converts CUDA devices in arguments and attributes."""

    def __init__(self, machine: Machine, placement: Placement, dispatch: KernelDispatch) -> None:
        """Store what the conversions need."""
        super().__init__()
        self._machine, self._placement, self._dispatch = machine, placement, dispatch
        self._getters: dict[object, Callable[[Tensor], object]] = {
            torch.Tensor.device.__get__: self._get_device,
            torch.Tensor.is_cuda.__get__: lambda tensor: placement.find(tensor) != _HOST,
            torch.Tensor.is_cpu.__get__: lambda tensor: placement.find(tensor) == _HOST and tensor.is_cpu,
            torch.Tensor.get_device: placement.find,
        }

    def __torch_function__(
        self, func: Any, types: object, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        """Call one function of torch."""
        kwargs = dict(kwargs or {})
        getter = self._getters.get(func)
        if getter is not None:
            return getter(args[0])
        if func in _MOVING:
            return self._move(func, args, kwargs)
        index = self._parse(kwargs.get("device"))
        if index is None or func is torch._C._nn._parse_to:  # which returns the device
            return func(*args, **kwargs)
        return self._call_on(index, func, args, {**kwargs, "device": "cpu"})

    def _get_device(self, tensor: Tensor) -> object:
        index = self._placement.find(tensor)
        return tensor.device if index == _HOST else torch.device("cuda", index)

    def _parse(self, device: object) -> int | None:
        """Return the index of a CUDA device, _HOST for the CPU; None for anything else."""
        if isinstance(device, int) and not isinstance(device, bool):
            return device
        if isinstance(device, str):
            device = torch.device(device)
        if not isinstance(device, torch.device) or device.type not in ("cpu", "cuda"):
            return None
        return _HOST if device.type == "cpu" else self._machine.resolve(device)

    def _move(self, func: Any, args: Arguments, kwargs: dict[str, Any]) -> object:
        """Call `to`, `cuda` or `cpu`, with a copy if the device changes."""
        tensor, *others = args
        if func is torch.Tensor.to:
            if others and isinstance(others[0], Tensor):
                like = others.pop(0)
                others = [self._get_device(like), like.dtype, *others]
            stated = [kwargs.get("device"), *others[:1]]
            index = next((parsed for each in stated if (parsed := self._parse(each)) is not None), None)
            others = ["cpu" if self._parse(each) is not None else each for each in others[:1]] + others[1:]
            if "device" in kwargs and index is not None:
                kwargs["device"] = "cpu"
        else:
            device = others[0] if others else kwargs.get("device")
            index = _HOST if func is torch.Tensor.cpu else self._machine.resolve(device)
            others, kwargs = ["cpu"], {}
        if index is None or index == self._placement.find(tensor):
            return torch.Tensor.to(tensor, *others, **kwargs)
        return self._call_on(index, torch.Tensor.to, (tensor, *others), {**kwargs, "copy": True})

    def _call_on(self, index: int, func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> object:
        """Call a function whose results are on a GPU, or on the CPU if the index is _HOST."""
        if index != _HOST:
            self._machine.get(index).use()
        outer, self._dispatch.target = self._dispatch.target, index
        try:
            return func(*args, **kwargs)
        finally:
            self._dispatch.target = outer
