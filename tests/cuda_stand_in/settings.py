"""GPUs and options of the stand-in, which a test writes and its processes read. Imports no torch."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import msgspec
from msgspec import Struct

FOLDER = "OPTADVISE_TESTS_CUDA"  # environment variable: folder of the settings, of the log and of the memory in use
DRIVER, CUDA = "580.95.05", "12.8"
CONTEXT_BYTES = 500 * 2**20  # of each process that uses a GPU

GPU_LOST = "CUDA error: unspecified launch failure. GPU is lost"
NO_KERNEL_IMAGE = "CUDA error: no kernel image is available for execution on the device"
OUT_OF_MEMORY = "CUDA error: out of memory"
CUBLAS_ALLOC_FAILED = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
BUSY = "CUDA error: all CUDA-capable devices are busy or unavailable"


class Gpu(Struct, frozen=True, kw_only=True):
    """One GPU."""

    name: str = "NVIDIA Stand-In"
    memory_gib: float = 4.0
    capability: tuple[int, int] = (8, 0)
    uuid: str = ""  # empty: derived from its number
    l2_bytes: int = 2**21
    bandwidth: float = 1e12  # bytes per second
    exclusive: bool = False  # compute mode in which one process at a time can use it
    error: str | None = None  # message of the error that kernels raise
    error_at: int = 1  # kernel launch of a process from which on `error` is raised
    error_in: str = ""  # part of the name of the operations that raise `error`; empty: all


class Settings(Struct, frozen=True, kw_only=True):
    """All GPUs and options."""

    gpus: tuple[Gpu, ...]
    seconds_per_launch: float = 0.0  # time of the host for each kernel launch, in addition to that of the CPU kernel
    skipped_steps: int = 0  # first steps of each gradient scaler in which gradients overflow


class Call(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Entry of the log."""

    name: str  # function of torch.cuda, `kernel`, or `managed` for an allocation of managed memory
    pid: int
    device: int | None = None  # index for torch, of the argument or the current device
    operation: str = ""  # of a kernel
    bytes: int = 0  # that a kernel moves, or of an allocation
    launches: int = 0  # kernels of this process on the GPU so far


def get_folder() -> Path:
    """Return the folder that the test and its processes share."""
    return Path(os.environ[FOLDER])


def write_settings(folder: Path, settings: Settings) -> None:
    """Write the settings, with a UUID for each GPU."""
    gpus = [
        msgspec.structs.replace(gpu, uuid=gpu.uuid or f"GPU-00000000-0000-0000-0000-{number:012d}")
        for number, gpu in enumerate(settings.gpus)
    ]
    encoded = msgspec.json.encode(msgspec.structs.replace(settings, gpus=tuple(gpus)))
    (folder / "settings.json").write_bytes(encoded)


def read_settings(folder: Path) -> Settings:
    """Return the settings."""
    return msgspec.json.decode((folder / "settings.json").read_bytes(), type=Settings)


def read_build_version(distribution: metadata.Distribution) -> str:
    """Return the version of an installed package; PyPI's build of torch for CUDA has one without a suffix."""
    return distribution.metadata["Version"].removesuffix("+cpu")


def list_visible(gpus: tuple[Gpu, ...]) -> list[Gpu]:
    """Return the GPUs that CUDA lists: those of CUDA_VISIBLE_DEVICES up to the first invalid entry."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return list(gpus)
    visible: list[Gpu] = []
    for entry in map(str.strip, text.split(",")):
        is_number = entry.isdigit() and int(entry) < len(gpus)
        matches = [gpus[int(entry)]] if is_number else [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
        if len(matches) != 1:
            break
        visible += matches
    return visible


def write_log(call: Call) -> None:
    """Append an entry to the log; short appended lines of several processes do not mix."""
    with (get_folder() / "log").open("ab", buffering=0) as file:
        file.write(msgspec.json.encode(call) + b"\n")


def read_log(folder: Path) -> list[Call]:
    """Return all entries so far."""
    file = folder / "log"
    return msgspec.json.Decoder(Call).decode_lines(file.read_bytes()) if file.exists() else []
