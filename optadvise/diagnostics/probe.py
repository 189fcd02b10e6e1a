"""Import probe: a worker process that imports torch and the optimizers' packages, which may hang, crash or print.

It sends the properties of torch, then the result of each import at once, so the parent knows which package failed.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from optadvise.core.errors import describe_error
from optadvise.core.worker import ParentConnection
from optadvise.diagnostics.records import CPU_BUILD, ImportResult, ProbeRequest, TorchDevice, TorchFacts

if TYPE_CHECKING:
    from types import ModuleType


def main() -> None:
    """Answer one request."""
    parent = ParentConnection()
    request = parent.receive(ProbeRequest)
    facts = describe_torch(request.devices)
    parent.send(facts)
    for path in request.paths if facts.imports else ():
        error = try_import(path)
        attribute = None if error is not None else request.has_cuda.get(path)
        parent.send(ImportResult(path, error, None if attribute is None else read_flag(attribute)))
    os._exit(0)  # some libraries crash when the interpreter shuts down


def try_import(path: str) -> str | None:
    """Import a class, and return why it cannot be imported; None if it can."""
    module, _, name = path.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)
    except BaseException as error:  # libraries may raise any exception, including SystemExit
        return describe_error(error)
    return None


def read_flag(path: str) -> bool | None:
    """Return whether an attribute of a module is true; None if it does not exist, as in an older version."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        try:
            return bool(functools.reduce(getattr, parts[length:], value))
        except AttributeError:
            return None
    return None


def describe_torch(tried: Collection[str] | None = None) -> TorchFacts:
    """Import torch and describe it and its devices.

    Args:
        tried: Devices to run a kernel on; None for all.
    """
    try:
        import torch

        devices = (*_list_cuda_devices(torch, tried), *_list_mps_devices(torch))
        toolkits = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
        has_cuda = any(device.kind == "cuda" for device in devices)
        return TorchFacts(
            imports=True,
            version=torch.__version__,
            built_for=next((f"{name} {version}" for name, version in toolkits.items() if version), CPU_BUILD),
            threads=torch.get_num_threads(),
            devices=devices,
            why_no_cuda=None if has_cuda else _explain_no_cuda(torch),
        )
    except BaseException as error:  # libraries may raise any exception, including SystemExit
        return TorchFacts(imports=False, error=describe_error(error))


def _list_cuda_devices(torch: ModuleType, tried: Collection[str] | None) -> list[TorchDevice]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [_describe_cuda_device(torch, number, tried) for number in range(count)]


def _describe_cuda_device(torch: ModuleType, number: int, tried: Collection[str] | None) -> TorchDevice:
    device = f"cuda:{number}"
    try:
        properties = torch.cuda.get_device_properties(number)
        is_tried = tried is None or device in tried
        why_not = try_device(device) if is_tried else None
        return TorchDevice(
            device=device,
            kind="cuda",
            name=properties.name,
            memory_bytes=properties.total_memory,
            free_bytes=torch.cuda.mem_get_info(number)[0] if is_tried and why_not is None else None,
            compute_capability=f"{properties.major}.{properties.minor}",
            uuid=str(getattr(properties, "uuid", "")),
            why_not=why_not,
        )
    except Exception as error:  # torch may list devices that it cannot use
        return TorchDevice(device=device, kind="cuda", why_not=describe_error(error))


def _list_mps_devices(torch: ModuleType) -> list[TorchDevice]:
    if not torch.backends.mps.is_available():
        return []
    memory = torch.mps.recommended_max_memory() if hasattr(torch.mps, "recommended_max_memory") else None
    why_not = try_device("mps")
    return [TorchDevice(device="mps", kind="mps", name="Apple GPU", memory_bytes=memory, why_not=why_not)]


def try_device(device: str) -> str | None:
    """Run a kernel on a device, and return why it cannot be used; None if it can.

    torch also lists devices for which it has no kernels.
    """
    import torch

    try:
        torch.ones(8, device=device).sum().item()
    except Exception as error:  # the driver and the allocator raise many types of errors
        return describe_error(error)
    return None


def _explain_no_cuda(torch: ModuleType) -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:  # the message explains the reason
        return describe_error(error)
    return "torch finds no device"


if __name__ == "__main__":
    main()
