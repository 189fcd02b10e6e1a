"""Records of `optadvise doctor`: messages of the import probe, and the report."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from optadvise.core.version import __version__

CPU_BUILD = "the CPU"  # in `built_for`

# -- messages ---------------------------------------------------------------------------------------------------------


class ProbeRequest(Struct, frozen=True):
    """Import paths of the classes to import after torch, and the devices to try."""

    paths: tuple[str, ...]
    devices: tuple[str, ...] | None = None  # torch's names of the devices to run a kernel on; None: all
    has_cuda: dict[str, str] = {}  # attribute that is true if a package has loaded its GPU library, by import path


class TorchDevice(Struct, frozen=True, kw_only=True):
    """Device that torch lists."""

    device: str  # torch's name: cuda:0
    kind: str  # cuda or mps
    name: str | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None  # None where torch does not report it
    compute_capability: str | None = None  # 9.0
    uuid: str = ""  # empty where torch does not report it
    why_not: str | None = None  # why torch cannot use it; None if it can


class TorchFacts(Struct, frozen=True, kw_only=True, tag_field="answer", tag="torch"):
    """Properties of the installed torch; only `error` if it cannot be imported."""

    imports: bool
    error: str | None = None
    version: str | None = None
    built_for: str | None = None  # such as CUDA 12.8, ROCm 6.2 or the CPU
    threads: int | None = None
    devices: tuple[TorchDevice, ...] = ()
    why_no_cuda: str | None = None  # None if a CUDA device is available

    @property
    def is_cpu_build(self) -> bool:
        """Return whether torch is built without support for NVIDIA and AMD GPUs."""
        return self.built_for == CPU_BUILD


class ImportResult(Struct, frozen=True, tag_field="answer", tag="import"):
    """Result of importing one class."""

    path: str
    error: str | None  # None if it was imported
    has_cuda: bool | None = None  # whether the package has loaded its GPU library; None: unknown, or not requested


ProbeAnswer: TypeAlias = TorchFacts | ImportResult


class ProbeResult(Struct, frozen=True):
    """Answers of all probes."""

    torch: TorchFacts
    errors: dict[str, str | None]  # by import path; empty if torch cannot be imported
    without_cuda: frozenset[str] = frozenset()  # import paths whose package has not loaded its GPU library


# -- report -----------------------------------------------------------------------------------------------------------


class TorchReport(Struct, frozen=True):
    """Properties of the installed torch in the report."""

    imports: bool
    error: str | None
    built_for: str | None
    threads: int | None
    why_no_cuda: str | None


class Device(Struct, frozen=True, kw_only=True):
    """CPU, or GPU that torch or the driver lists."""

    device: str | None  # torch's name; None if torch does not list it
    kind: str  # cpu, cuda or mps
    name: str | None
    memory_bytes: int | None
    driver: str | None = None  # version
    compute_capability: str | None = None
    threads: int | None = None  # threads of torch, for the CPU
    usable: bool
    why_not: str | None


class OptimizerSupport(Struct, frozen=True):
    """Support of one optimizer on this machine."""

    id: str
    runs: bool
    implementation: str | None  # import path of the first implementation that runs
    why_not: str | None  # None if the optimizer runs
    note: str | None  # why the first implementation of the card does not run; None if it does


class DoctorReport(Struct, frozen=True, kw_only=True):
    """JSON of `optadvise doctor`."""

    schema_version: int = 1
    kind: str = "doctor"
    optadvise: str = __version__
    python: str
    platform: str
    packages: dict[str, str | None]  # versions; None for a package that is not installed
    missing: dict[str, str]  # packages that are not installed, and what they are for
    torch: TorchReport
    devices: tuple[Device, ...]
    driver_problem: str | None  # why nvidia-smi failed
    optimizers: tuple[OptimizerSupport, ...]
