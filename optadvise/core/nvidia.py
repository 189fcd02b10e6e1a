"""NVIDIA GPUs of this machine as nvidia-smi reports them, without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, OptadviseWarning

_PROGRAM = "nvidia-smi"
_TIMEOUT = 10.0  # seconds; nvidia-smi hangs if the driver does
_UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')
_FIELDS = ("index", "uuid", "memory.total", "memory.used", "driver_version", "compute_cap", "mig.mode.current")
_LISTED_GPU = re.compile(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)")
_LISTED_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")

Row = Mapping[str, "str | None"]  # text by field; None where nvidia-smi reports no value


class NvidiaGpu(Struct, frozen=True, kw_only=True):
    """GPU, or MIG instance of a GPU, that the NVIDIA driver lists."""

    index: int  # of the GPU, in the order of the PCI bus
    name: str
    uuid: str
    memory_bytes: int | None  # None for a GPU that shares the main memory, or that does not respond
    used_bytes: int | None = None  # by all processes
    driver: str | None = None
    compute_capability: str | None = None  # 9.0
    is_partitioned: bool = False  # whether only its MIG instances can be used


# -- queries ----------------------------------------------------------------------------------------------------------


def has_driver() -> bool:
    """Return whether nvidia-smi is installed."""
    return shutil.which(_PROGRAM) is not None


def query_gpus(*fields: str) -> list[Row]:
    """Return fields of each GPU, in the order of the PCI bus; a GPU that does not respond may be missing.

    Args:
        fields: Names from `nvidia-smi --help-query-gpu`; those that the driver does not know are None. The last may
            contain commas.

    Raises:
        CannotRunHereError: nvidia-smi is missing, or reports no GPU.
    """
    return _query("gpu", fields)


def query_processes(*fields: str) -> list[Row]:
    """Return fields of each process that computes on a GPU.

    Args:
        fields: Names from `nvidia-smi --help-query-compute-apps`. The last may contain commas.

    Raises:
        CannotRunHereError: nvidia-smi is missing or fails.
    """
    return _query("compute-apps", fields)


def _query(subject: str, fields: Sequence[str]) -> list[Row]:
    supported = list(fields)
    while True:
        arguments = [f"--query-{subject}={','.join(supported)}", "--format=csv,noheader,nounits"]
        output, is_complete = _run(*arguments)
        unknown = _UNKNOWN_FIELD.search(output)
        if unknown is None or unknown[1] not in supported or len(supported) == 1:
            break
        supported.remove(unknown[1])  # an older driver
    cells = [line.split(",", len(supported) - 1) for line in output.splitlines() if line.strip()]
    rows = [dict(zip(supported, map(_read_cell, row), strict=True)) for row in cells if len(row) == len(supported)]
    if not is_complete and not rows:  # with rows, the error is that of another GPU
        raise _make_error(output)
    return [{**dict.fromkeys(fields), **row} for row in rows]


def _read_cell(cell: str) -> str | None:
    """Return the text of a cell; None for text such as [N/A], [Not Supported] or [GPU is lost]."""
    text = cell.strip()
    return None if not text or text == "N/A" or (text[0], text[-1]) == ("[", "]") else text


def _run(*arguments: str) -> tuple[str, bool]:
    """Run nvidia-smi, and return what it prints and whether it succeeded.

    Raises:
        CannotRunHereError: nvidia-smi is missing, cannot be started or does not answer.
    """
    program = shutil.which(_PROGRAM)
    if program is None:
        message = f"this machine has no NVIDIA driver ({_PROGRAM})"
        raise CannotRunHereError(message, code=ErrorCode.MISSING_DEVICE)
    try:
        process = subprocess.run(
            [program, *arguments], capture_output=True, timeout=_TIMEOUT, check=False, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        message = f"{_PROGRAM} did not answer within {_TIMEOUT:g} s"
        raise CannotRunHereError(message, code=ErrorCode.MISSING_DEVICE) from error
    except OSError as error:
        raise _make_error(str(error)) from error
    return process.stdout, process.returncode == 0


def _make_error(output: str) -> CannotRunHereError:
    """Return the error with the first line of what nvidia-smi printed; it prints errors to stdout."""
    reason = output.strip().split("\n")[0][:200]
    return CannotRunHereError(
        f"{_PROGRAM} failed{': ' if reason else ''}{reason}", code=ErrorCode.MISSING_DEVICE, value=reason or None
    )


def parse_mebibytes(text: str | None) -> int | None:
    """Return the bytes of a number of MiB, with or without its unit; None if it is not a number."""
    number = (text or "").removesuffix("MiB").strip()
    return int(number) * 2**20 if number.isdecimal() else None


# -- devices ----------------------------------------------------------------------------------------------------------


def list_nvidia_gpus() -> list[NvidiaGpu]:
    """Return the GPUs that the NVIDIA driver lists, including those that torch cannot use; empty without a driver.

    Raises:
        CannotRunHereError: The driver does not respond.
    """
    if not has_driver():
        return []
    return [
        NvidiaGpu(
            index=int(row["index"]),
            name=row["name"] or "unknown",
            uuid=row["uuid"] or "",
            memory_bytes=parse_mebibytes(row["memory.total"]),
            used_bytes=parse_mebibytes(row["memory.used"]),
            driver=row["driver_version"],
            compute_capability=row["compute_cap"],
            is_partitioned=row["mig.mode.current"] == "Enabled",
        )
        for row in query_gpus(*_FIELDS, "name")
        if row["index"] is not None and row["index"].isdecimal()
    ]


def list_visible_gpus() -> list[NvidiaGpu]:
    """Return the GPUs and MIG instances that CUDA_VISIBLE_DEVICES leaves visible to this process.

    Indices count in the order of the PCI bus, as with CUDA_DEVICE_ORDER=PCI_BUS_ID; a warning is printed if CUDA may
    count differently. CUDA ignores all entries after an invalid one, and uses the first MIG instance of a GPU unless
    the variable names another.

    Raises:
        CannotRunHereError: The driver does not respond.
    """
    gpus = list_nvidia_gpus()
    instances = _list_instances(gpus) if any(gpu.is_partitioned for gpu in gpus) else []
    selection = os.environ.get("CUDA_VISIBLE_DEVICES")
    if selection is None:
        found = [_find_default_instance(gpu, instances) for gpu in gpus]
        return [gpu for gpu in found if gpu is not None]
    visible: list[NvidiaGpu] = []
    for entry in selection.split(","):
        gpu = _find_selected(entry.strip(), gpus, instances)
        if gpu is None:
            break
        visible.append(gpu)
    has_indices = any(entry.strip().isdecimal() for entry in selection.split(","))
    is_ambiguous = len({gpu.name for gpu in gpus}) > 1 and 0 < len(visible) < len(gpus)
    if has_indices and is_ambiguous and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        names = ", ".join(gpu.name for gpu in visible)
        warnings.warn(
            f"CUDA_VISIBLE_DEVICES={selection} is {names} in the order of the PCI bus, but CUDA may count the fastest "
            "GPU first; set CUDA_DEVICE_ORDER=PCI_BUS_ID",
            OptadviseWarning, stacklevel=2,
        )  # fmt: skip
    return visible


def find_physical_uuids(uuids: Iterable[str]) -> list[str | None]:
    """Return the UUIDs of GPUs, or of the GPUs of MIG instances; None for one that the driver does not list.

    Args:
        uuids: UUIDs with or without the prefix GPU- or MIG-, which torch omits.

    Raises:
        CannotRunHereError: The driver does not respond.
    """
    gpus = list_nvidia_gpus()
    instances = _list_instances(gpus) if any(gpu.is_partitioned for gpu in gpus) else []
    physical = {gpu.index: gpu.uuid for gpu in gpus}
    indices = {device.uuid: device.index for device in (*gpus, *instances)}
    names = ([uuid, f"GPU-{uuid}", f"MIG-{uuid}"] for uuid in uuids)
    found = (next((indices[name] for name in spellings if name in indices), None) for spellings in names)
    return [None if index is None else physical.get(index) for index in found]


def _find_selected(entry: str, gpus: Sequence[NvidiaGpu], instances: Sequence[NvidiaGpu]) -> NvidiaGpu | None:
    """Return the device of an entry of CUDA_VISIBLE_DEVICES: an index, or the beginning of one UUID."""
    if entry.isdecimal():
        gpu = next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    else:
        matches = [device for device in (*gpus, *instances) if entry and device.uuid.startswith(entry)]
        gpu = matches[0] if len(matches) == 1 else None
    return None if gpu is None else _find_default_instance(gpu, instances)


def _find_default_instance(gpu: NvidiaGpu, instances: Sequence[NvidiaGpu]) -> NvidiaGpu | None:
    """Return a GPU, or the first MIG instance of a partitioned GPU; None if it has none."""
    if not gpu.is_partitioned:
        return gpu
    return next((instance for instance in instances if instance.index == gpu.index), None)


def _list_instances(gpus: Sequence[NvidiaGpu]) -> list[NvidiaGpu]:
    """Return the MIG instances of all GPUs."""
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    memory = _read_instance_memory()
    gpu: NvidiaGpu | None = None
    instances = []
    for line in _run("-L")[0].splitlines():
        if match := _LISTED_GPU.match(line):
            gpu = by_uuid.get(match[1])
        elif (match := _LISTED_INSTANCE.match(line)) and gpu is not None:
            profile, number, uuid = match.groups()
            total, used = memory.get((gpu.uuid, number), (None, None))
            name = f"{gpu.name} MIG {profile}"  # as torch names it
            instances.append(
                replace(gpu, name=name, uuid=uuid, memory_bytes=total, used_bytes=used, is_partitioned=False)
            )
    return instances


def _read_instance_memory() -> dict[tuple[str, str], tuple[int | None, int | None]]:
    """Return total and used bytes of each MIG instance by the UUID of its GPU and its number; empty if unknown."""
    from xml.etree import ElementTree  # takes several milliseconds, and few GPUs have instances

    try:
        root = ElementTree.fromstring(_run("-q", "-x")[0])
    except ElementTree.ParseError:
        return {}
    memory = {}
    for gpu in root.iter("gpu"):
        for instance in gpu.iter("mig_device"):
            total, used = (parse_mebibytes(instance.findtext(f"fb_memory_usage/{name}")) for name in ("total", "used"))
            memory[gpu.findtext("uuid", ""), instance.findtext("index", "")] = (total, used)
    return memory
