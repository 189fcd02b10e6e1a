"""Facts of a GPU: of a catalog entry, or of this machine's GPU for `--vram auto`."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence

from optadvise.core.cards import Gpu
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError, OptadviseWarning
from optadvise.core.hardware import read_main_memory
from optadvise.core.nvidia import NvidiaGpu, has_driver, list_visible_gpus
from optadvise.core.records import InputValue
from optadvise.core.units import show_bytes
from optadvise.rulebase.catalog import Catalog

_REMEDY = "use --vram 24GB or --gpu NAME"
_BF16_CAPABILITY = (8, 0)  # first compute capability with bf16 arithmetic
_REPORTED_SHARE = 0.01  # of the memory; an idle driver uses less
_ROCM_PROGRAMS = ("rocm-smi", "amd-smi")


def describe_gpu(card: Gpu) -> dict[str, InputValue]:
    """Return the facts of a GPU of the catalog."""
    facts: dict[str, InputValue] = {"gpu": card.name, "vram_bytes": card.memory_bytes, "vendor": card.vendor}
    return facts if card.bf16 else {**facts, "bf16": False}


def detect_gpu(catalog: Catalog) -> dict[str, InputValue]:
    """Return the facts of this machine's smallest visible NVIDIA GPU; print a note if other programs use its memory.

    The name is that of the catalog if it lists the GPU, otherwise that of the driver. The memory is that of the GPU.

    Raises:
        CannotRunHereError: No NVIDIA GPU is visible, the driver does not respond, or the memory is unknown.
    """
    gpu = _find_smallest(_list_gpus())
    memory_bytes = gpu.memory_bytes or read_main_memory()
    card = None if memory_bytes is None else _find_card(catalog, gpu, memory_bytes)
    if memory_bytes is None or (gpu.memory_bytes is None and (card is None or not card.shared_memory)):
        raise _make_error(f"nvidia-smi reports no memory size of {gpu.name}; {_REMEDY}")
    if gpu.used_bytes is not None and gpu.used_bytes >= _REPORTED_SHARE * memory_bytes:
        used, total = show_bytes(gpu.used_bytes), show_bytes(memory_bytes)
        warnings.warn(
            f"other programs use {used} of the {total} of {gpu.name}; close them, or use --vram with what is free",
            OptadviseWarning, stacklevel=2,
        )  # fmt: skip
    facts: dict[str, InputValue] = {"gpu": gpu.name, "vendor": "nvidia"} if card is None else describe_gpu(card)
    return {**facts, "vram_bytes": memory_bytes, **({} if _has_bf16(gpu) else {"bf16": False})}


def _list_gpus() -> list[NvidiaGpu]:
    """Return the visible GPUs, at least one.

    Raises:
        CannotRunHereError: No GPU is visible, or the driver does not respond.
    """
    try:
        gpus = list_visible_gpus()
    except CannotRunHereError as error:
        raise _make_error(f"{error}; {_REMEDY}") from error
    if not gpus:
        raise _make_error(f"{_explain_no_gpu()}; {_REMEDY}")
    return gpus


def _explain_no_gpu() -> str:
    """Return why no GPU is visible although nvidia-smi ran, or is missing."""
    selection = os.environ.get("CUDA_VISIBLE_DEVICES")
    if has_driver():
        return "nvidia-smi lists no GPU" if selection is None else f"CUDA_VISIBLE_DEVICES={selection!r} hides all GPUs"
    rocm = next((program for program in _ROCM_PROGRAMS if shutil.which(program)), None)
    if rocm is not None:
        return f"only NVIDIA GPUs are detected, and this machine has an AMD GPU ({rocm})"
    return "this machine has no NVIDIA driver (nvidia-smi)"


def _find_smallest(gpus: Sequence[NvidiaGpu]) -> NvidiaGpu:
    """Return the GPU with the least memory; one without a size only if no GPU has a size."""
    return min(gpus, key=lambda gpu: (gpu.memory_bytes is None, gpu.memory_bytes or 0))


def _find_card(catalog: Catalog, gpu: NvidiaGpu, memory_bytes: int) -> Gpu | None:
    """Return the catalog's entry of a GPU; None if its name, or its memory under this name, is not listed."""
    try:
        return catalog.find_gpu(gpu.name, memory_bytes)
    except InputError:
        return None


def _has_bf16(gpu: NvidiaGpu) -> bool:
    """Return whether a GPU supports bf16; True if its compute capability is unknown."""
    if gpu.compute_capability is None:
        return True
    return tuple(map(int, gpu.compute_capability.split("."))) >= _BF16_CAPABILITY


def _make_error(problem: str) -> CannotRunHereError:
    message = f"--vram auto: {problem}"
    return CannotRunHereError(message, code=ErrorCode.MISSING_DEVICE, option="--vram", value="auto")
