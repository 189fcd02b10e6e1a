"""Choice of the device to measure on, without importing torch into this process."""

from __future__ import annotations

import functools
import re
import warnings
from importlib.metadata import PackageNotFoundError, version

from optadvise.benchmark.options import DEVICES, resolve_alias
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError, OptadviseWarning
from optadvise.diagnostics.probe_client import probe_torch
from optadvise.diagnostics.records import TorchDevice, TorchFacts

_CPU_BUILD = "+cpu"  # end of the version of a build without any GPU


def resolve_device(device: str, *, is_probed: bool = True) -> str:
    """Return the device to measure on: the one requested, or for `auto` the GPU that torch uses by default, or the CPU.

    Another process imports torch and runs a kernel there. If a build for GPUs cannot, `auto` prints why and measures on
    the CPU.

    Args:
        device: The device as typed.
        is_probed: Whether this machine will measure; otherwise no process is started, and `auto` is the CPU.

    Raises:
        InputError: The device is not supported.
        CannotRunHereError: torch is not installed, or cannot use the requested device.
    """
    requested = _parse_device(device)
    torch_version = _find_torch_version()
    if requested == "cpu":
        return requested
    if _CPU_BUILD in torch_version:
        if requested == "auto":
            return "cpu"
        message = f"--device {device}: torch {torch_version} is built for the CPU only; see optadvise doctor"
        raise _make_error(message, device, ErrorCode.UNSUPPORTED)
    if not is_probed:
        return "cpu" if requested == "auto" else requested
    if requested == "auto":
        return _choose_device()
    problem = _explain_unusable(requested)
    if problem is not None:
        raise _make_error(f"--device {device}: {problem}; see optadvise doctor", device, ErrorCode.MISSING_DEVICE)
    return requested


def describe_device(device: str) -> TorchDevice | None:
    """Return what torch reports of a device that `resolve_device` returned; None for the CPU."""
    if device == "cpu":
        return None
    name = "cuda:0" if device == "cuda" else device
    return next((each for each in _probe(name).devices if each.device == name), None)


def find_gpu_uuids(device: str, processes: int) -> tuple[str, ...]:
    """Return the UUIDs of the CUDA devices that a benchmark uses, as torch reports them; empty without any.

    Args:
        device: From `resolve_device`.
        processes: Number of processes; each uses one GPU, from the first.
    """
    if not device.startswith("cuda"):
        return ()
    names = [f"cuda:{number}" for number in range(processes)] if device == "cuda" else [device]
    devices = {each.device: each.uuid for each in _probe(names[0]).devices}
    return tuple(uuid for name in names if (uuid := devices.get(name)))


def _parse_device(device: str) -> str:
    """Return a device as torch names it, or `auto`, without checking whether this machine has it.

    Raises:
        InputError: The device is not supported, or its index is not a number.
    """
    kind, colon, index = device.partition(":")
    kind = resolve_alias("device", kind)
    if kind not in DEVICES:
        raise InputError(
            f"--device {device!r}: must be one of {', '.join(DEVICES)}, as the optimizers support no other devices; "
            "recommend and estimate with --vram require no device",
            code=ErrorCode.UNKNOWN_CHOICE, option="--device", value=device,
        )  # fmt: skip
    if colon and not (kind == "cuda" and re.fullmatch(r"[0-9]{1,3}", index)):
        raise InputError(
            f"--device {device!r}: only cuda has an index, which is a number, as in cuda:0",
            code=ErrorCode.INVALID_VALUE, option="--device", value=device,
        )  # fmt: skip
    return f"cuda:{int(index)}" if colon else kind


def _find_torch_version() -> str:
    """Return torch's version.

    Raises:
        CannotRunHereError: torch is not installed.
    """
    try:
        return _read_torch_version()
    except PackageNotFoundError as error:
        message = "bench requires torch, which is not installed; pip install torch"
        raise CannotRunHereError(message, code=ErrorCode.MISSING_PACKAGE, value="torch") from error


@functools.cache  # a sweep asks for each of its cells
def _read_torch_version() -> str:
    return version("torch")


@functools.cache
def _choose_device() -> str:
    """Return cuda if torch can use it, otherwise cpu; print why if torch is built for a GPU."""
    problem = _explain_unusable("cuda")
    if problem is None:
        return "cuda"
    if not _probe("cuda:0").is_cpu_build:
        warnings.warn(f"--device auto: measuring on the CPU, because {problem}", OptadviseWarning, stacklevel=2)
    return "cpu"


def _explain_unusable(device: str) -> str | None:
    """Return why torch cannot use a device; None if it can.

    Raises:
        CannotRunHereError: torch cannot be imported.
    """
    name = "cuda:0" if device == "cuda" else device
    torch = _probe(name)
    if not torch.imports:
        raise CannotRunHereError(str(torch.error), code=ErrorCode.MISSING_PACKAGE, value="torch")
    found = next((each for each in torch.devices if each.device == name), None)
    if found is not None:
        return found.why_not and f"torch cannot use {found.name or name}: {found.why_not}"
    kind = name.split(":")[0]
    similar = [each.device for each in torch.devices if each.kind == kind]
    if similar:
        return f"torch finds only {', '.join(similar)}"
    return (torch.why_no_cuda if kind == "cuda" else None) or f"torch {torch.version} finds no {kind} device"


@functools.cache
def _probe(device: str) -> TorchFacts:
    return probe_torch((device,))


def _make_error(message: str, device: str, code: ErrorCode) -> CannotRunHereError:
    return CannotRunHereError(message, code=code, option="--device", value=device)
