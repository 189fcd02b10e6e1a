"""Stages about the machine: driver and packages, the CUDA context, and the bandwidth."""

from __future__ import annotations

import time
from functools import partial

import torch

from gpu_check.records import Check, Item, Settings, check_range, check_text
from optadvise.benchmark.peak_memory import measure_device_bandwidth
from optadvise.core import nvidia
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.diagnostics.probe_client import probe_imports
from optadvise.diagnostics.records import ProbeResult
from optadvise.memory.intervals import make_context_interval
from optadvise.rulebase.catalog import load

_DRIVER_FIELDS = (
    "driver_version", "memory.total", "memory.used", "mig.mode.current", "persistence_mode", "power.limit",
    "power.max_limit", "clocks.max.sm", "clocks.max.memory", "ecc.mode.current", "pcie.link.gen.current", "name",
)  # fmt: skip
_PROBED = ("bitsandbytes.optim.AdamW8bit", "triton.jit")
_WORKS = "works"
_TOLERANCE = 0.03  # of the bench's bandwidth
_COPIED_BYTES = {"cuda": 2**32, "cpu": 2**26}
_QUEUED, _REPEATS = 8, 5  # copies
# Share of the manufacturer's bandwidth that copies are expected to reach.
_LISTED_SHARE = (0.65, 1.02)


# -- machine ----------------------------------------------------------------------------------------------------------


def list_items(settings: Settings) -> list[Item]:
    """Return the items about driver, GPU and packages."""
    items = [Item("packages", partial(check_packages, settings))]
    return items if settings.device == "cpu" else [Item("driver", check_driver), *items]


def check_driver() -> list[Check]:
    """Check what nvidia-smi reports of the first GPU that is visible."""
    visible = nvidia.list_visible_gpus()
    rows = nvidia.query_gpus("uuid", "compute_mode", *_DRIVER_FIELDS)
    row = next((row for row in rows if visible and row["uuid"] == visible[0].uuid), rows[0])
    reported = [Check(name=field, measured=row[field]) for field in _DRIVER_FIELDS]
    return [*reported, check_text("compute_mode", row["compute_mode"], "Default")]  # others reject a second process


def check_packages(settings: Settings) -> list[Check]:
    """Check that torch can use the device, and that the packages with kernels can be imported."""
    probed = probe_imports(_PROBED)
    facts = probed.torch
    checks = [
        Check(name="torch", is_right=facts.imports, measured=facts.version, note=facts.error),
        Check(name="torch is built for", measured=facts.built_for),
    ]
    is_cuda = settings.device == "cuda"
    for path in _PROBED:
        works = None if path not in probed.errors else probed.errors[path] or _WORKS
        checks.append(check_text(path, works, _WORKS if is_cuda else None))
    return [*checks, *_check_devices(probed), _check_native_library()] if is_cuda else checks


def _check_devices(probed: ProbeResult) -> list[Check]:
    """Check that torch can run a kernel on each GPU."""
    devices = [device for device in probed.torch.devices if device.kind == "cuda"]
    return [
        Check(
            name=device.device,
            is_right=device.why_not is None,
            measured=f"{device.name}, compute capability {device.compute_capability}",
            figures={"memory_bytes": device.memory_bytes, "free_bytes": device.free_bytes},
            note=device.why_not,
        )
        for device in devices
    ]


def _check_native_library() -> Check:
    """Check that bitsandbytes has a binary for this version of CUDA; without one, it can still be imported."""
    from bitsandbytes.cextension import lib

    has_cuda = bool(getattr(lib, "compiled_with_cuda", False))
    return Check(name="bitsandbytes has CUDA kernels", is_right=has_cuda, measured=type(lib).__name__)


# -- context ----------------------------------------------------------------------------------------------------------


def list_context_items(settings: Settings) -> list[Item]:
    """Return the measurement of the CUDA context.

    Raises:
        CannotRunHereError: The device is the CPU.
    """
    require_cuda(settings)
    return [Item("context", measure_context)]


def require_cuda(settings: Settings) -> None:
    """Check that the device is a GPU.

    Raises:
        CannotRunHereError: It is the CPU.
    """
    if settings.device != "cuda":
        raise CannotRunHereError("requires a GPU", code=ErrorCode.MISSING_DEVICE)


def measure_context() -> list[Check]:
    """Compare the memory of the CUDA context, cuBLAS and cuDNN with the range of the estimate."""
    before = _read_used_bytes()
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    context = _read_used_bytes() - before - torch.cuda.memory_reserved()
    image = torch.randn(8, 16, 64, 64, device="cuda", requires_grad=True)
    kernel = torch.randn(16, 16, 3, 3, device="cuda", requires_grad=True)
    matrix = torch.randn(2048, 2048, device="cuda", requires_grad=True)
    (torch.nn.functional.conv2d(image, kernel).sum() + (matrix @ matrix).sum()).backward()
    torch.cuda.synchronize()
    with_libraries = _read_used_bytes() - before - torch.cuda.memory_reserved()
    expected = make_context_interval(load().memory.context)
    return [
        Check(name="context", measured=context, unit="bytes"),
        check_range("context, cuBLAS and cuDNN", with_libraries, expected.low, expected.high, "bytes"),
    ]


def _read_used_bytes() -> int:
    """Return the memory in use on the first visible GPU, by all processes.

    Raises:
        CannotRunHereError: The driver does not report it.
    """
    gpus = nvidia.list_visible_gpus()
    if not gpus or gpus[0].used_bytes is None:
        raise CannotRunHereError("nvidia-smi does not report the memory in use", code=ErrorCode.MISSING_DEVICE)
    return gpus[0].used_bytes


# -- bandwidth --------------------------------------------------------------------------------------------------------


def list_bandwidth_items(settings: Settings) -> list[Item]:
    """Return the comparison of bandwidths."""
    return [Item("bandwidth", partial(compare_bandwidths, settings))]


def compare_bandwidths(settings: Settings) -> list[Check]:
    """Compare the bandwidth that `bench` measures with large copies, and with the manufacturer's figure."""
    device = settings.device
    copied = measure_copies(device)
    measured = measure_device_bandwidth(device)
    if device == "cpu":  # depends on other processes
        return [
            Check(name="bench", measured=measured, unit="bytes/s"),
            Check(name="large copies", measured=copied, unit="bytes/s"),
        ]
    low, high = (1 - _TOLERANCE) * copied, (1 + _TOLERANCE) * copied
    return [check_range("bench, compared with large copies", measured, low, high, "bytes/s"), _compare_listed(copied)]


def measure_copies(device: str) -> float:
    """Return the bytes per second of large copies without launches between them, counting reads and writes."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 2**32
    source = torch.zeros(min(_COPIED_BYTES[device], free // 4) // 4, device=device)
    target = torch.empty_like(source)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = float("inf")
    for _ in range(_REPEATS):
        wait()
        begin = time.perf_counter()
        for _ in range(_QUEUED):
            target.copy_(source)
        wait()
        best = min(best, time.perf_counter() - begin)
    moved: int = 2 * _QUEUED * source.nbytes
    return moved / best


def _compare_listed(copied: float) -> Check:
    """Compare copies with the bandwidth in `rules/gpus.yaml`."""
    name = torch.cuda.get_device_name()
    try:
        listed = load().find_gpu(name).bandwidth_gb_s * 1e9
    except InputError as error:
        return Check(name="large copies", measured=copied, unit="bytes/s", note=str(error))
    low, high = _LISTED_SHARE
    return check_range(f"large copies, compared with {listed / 1e9:.0f} GB/s", copied, low * listed, high * listed,
                       "bytes/s")  # fmt: skip
