"""Replacements for the functions of `torch.cuda`, for autocast and for gradient scalers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from tests.cuda_stand_in.gpu import Machine
from tests.cuda_stand_in.memory import read_usage
from tests.cuda_stand_in.settings import CUDA, get_folder


def install(machine: Machine) -> None:
    """Replace the functions."""
    for functions in (_describe_devices(machine), _describe_memory(machine), _make_random_numbers()):
        for name, function in functions.items():
            setattr(torch.cuda, name, function)
    torch.cuda.Event = _make_event_class(machine)
    torch._C._cuda_getCurrentRawStream = lambda index: 0  # which only builds for CUDA have
    torch.version.cuda = CUDA
    torch.__version__ = type(torch.__version__)(torch.__version__.replace("+cpu", f"+cu{CUDA.replace('.', '')}"))
    _run_autocast_on_cpu()
    _overflow_first_steps(machine.settings.skipped_steps)


def _describe_devices(machine: Machine) -> dict[str, Callable[..., object]]:
    """Return the functions about devices and their queues."""

    def synchronize(device: object = None) -> None:
        index = machine.resolve(device)
        machine.synchronize(index)
        machine.log("synchronize", index)

    def set_device(device: object) -> None:
        index = device if isinstance(device, int) else torch.device(device).index
        if index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
        gpu = machine.get(index)
        if index != machine.current:
            gpu.use()  # since CUDA 12, a change of the device creates the context
        machine.current = index
        machine.log("set_device", index)

    def get_properties(device: object = None) -> SimpleNamespace:
        state = machine.get(machine.resolve(device))
        major, minor = state.gpu.capability
        return SimpleNamespace(
            name=state.gpu.name, total_memory=state.total_bytes, L2_cache_size=state.gpu.l2_bytes, major=major,
            minor=minor, uuid=state.gpu.uuid.removeprefix("GPU-"), multi_processor_count=1, is_integrated=0,
        )  # fmt: skip

    return {
        "is_available": lambda: bool(machine.gpus),
        "device_count": lambda: len(machine.gpus),
        "init": lambda: machine.get() and None,
        "is_initialized": lambda: True,
        "current_device": lambda: machine.get().index,
        "set_device": set_device,
        "synchronize": synchronize,
        "current_stream": lambda device=None: SimpleNamespace(synchronize=lambda: synchronize(device)),
        "get_device_properties": get_properties,
        "get_device_name": lambda device=None: get_properties(device).name,
        "get_device_capability": lambda device=None: machine.get(machine.resolve(device)).gpu.capability,
        "is_bf16_supported": lambda *_, **__: machine.get().gpu.capability >= (8, 0),
        "is_current_stream_capturing": lambda: False,
    }


def _describe_memory(machine: Machine) -> dict[str, Callable[..., object]]:
    """Return the functions about memory; those that read a counter are logged."""

    def read(name: str, counter: str) -> Callable[..., int]:
        def read_counter(device: object = None) -> int:
            index = machine.resolve(device)
            machine.log(name, index)
            value: int = getattr(machine.get(index), counter)
            return value

        return read_counter

    def reset_peak(device: object = None) -> None:
        index = machine.resolve(device)
        machine.log("reset_peak_memory_stats", index)
        gpu = machine.get(index)
        gpu.peak_allocated, gpu.peak_reserved = gpu.allocated, gpu.reserved

    def get_free_and_total(device: object = None) -> tuple[int, int]:
        gpu = machine.get(machine.resolve(device))
        return gpu.read_free_bytes(), gpu.total_bytes

    def list_processes(device: object = None) -> str:
        index = machine.resolve(device)
        usage = read_usage(get_folder(), machine.get(index).gpu.uuid)
        lines = [f"process {pid:>10d} uses {size / 2**20:>12.3f} MB GPU memory" for pid, size in usage.items()]
        return "\n".join([f"GPU:{index}", *(lines or ["no processes are running"])])

    counters = {
        "memory_allocated": "allocated", "max_memory_allocated": "peak_allocated",
        "memory_reserved": "reserved", "max_memory_reserved": "peak_reserved",
    }  # fmt: skip
    return {
        **{name: read(name, counter) for name, counter in counters.items()},
        "reset_peak_memory_stats": reset_peak,
        "empty_cache": lambda: machine.get().empty_cache(),
        "mem_get_info": get_free_and_total,
        "list_gpu_processes": list_processes,
    }


def _make_random_numbers() -> dict[str, Callable[..., object]]:
    """Return the functions about random numbers, which are those of the CPU."""
    return {
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "get_rng_state_all": lambda: [torch.get_rng_state() for _ in range(torch.cuda.device_count())],
        "set_rng_state": lambda state, device="cuda": None,
        "set_rng_state_all": lambda states: None,
    }


def _make_event_class(machine: Machine) -> type:
    class Event:
        """Time in the queue of the current GPU."""

        def __init__(self, enable_timing: bool = False, **options: object) -> None:
            self._has_time = enable_timing
            self._index, self._time = 0, 0.0

        def record(self, stream: object = None) -> None:
            gpu = machine.get()
            gpu.use()
            self._index, self._time = gpu.index, max(gpu.queue_end, machine.read_clock())
            machine.log("record", gpu.index)

        def synchronize(self) -> None:
            machine.synchronize(self._index)

        def query(self) -> bool:
            return machine.read_clock() >= self._time

        def elapsed_time(self, end: Event) -> float:
            """Return milliseconds."""
            if not (self._has_time and end._has_time):
                raise ValueError("Both events must be created with argument 'enable_timing=True'.")
            return (end._time - self._time) * 1e3

    return Event


def _run_autocast_on_cpu() -> None:
    initialize = torch.autocast.__init__

    @functools.wraps(initialize)
    def initialize_on_cpu(self: object, device_type: str, *args: Any, **kwargs: Any) -> None:
        initialize(self, "cpu" if device_type.startswith("cuda") else device_type, *args, **kwargs)

    torch.autocast.__init__ = initialize_on_cpu


def _overflow_first_steps(count: int) -> None:
    """Replace a gradient by infinity until a gradient scaler was updated `count` times."""
    scaler = torch.amp.GradScaler
    unscale, update = scaler._unscale_grads_, scaler.update

    def unscale_overflowed(self: Any, optimizer: Any, *args: Any) -> Mapping[object, object]:
        gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        if getattr(self, "_stand_in_updates", 0) < count:
            next(gradients).fill_(float("inf"))
        found: Mapping[object, object] = unscale(self, optimizer, *args)
        return found

    def count_update(self: Any, *args: Any, **kwargs: Any) -> None:
        self._stand_in_updates = getattr(self, "_stand_in_updates", 0) + 1
        update(self, *args, **kwargs)

    scaler._unscale_grads_, scaler.update = unscale_overflowed, count_update
