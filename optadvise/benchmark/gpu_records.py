"""Typed records of the GPU in benchmark results: what nvidia-smi and torch report about it. None means unknown."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from optadvise.benchmark.spec import NonNegativeInt

NonNegative = Annotated[float, Meta(ge=0)]


class GpuState(Struct, frozen=True, kw_only=True):
    """Clocks and temperature of a GPU at one time."""

    sm_clock_mhz: NonNegative | None = None
    memory_clock_mhz: NonNegative | None = None
    temperature_celsius: float | None = None


class GpuProcess(Struct, frozen=True, kw_only=True):
    """Process of another program that computed on the GPU before the benchmark."""

    pid: int
    name: str | None = None
    memory_bytes: NonNegativeInt | None = None


class GpuConditions(Struct, frozen=True, kw_only=True):
    """Driver and state of the GPU, as nvidia-smi reports them. Null: not reported."""

    uuid: str
    driver: str | None = None
    compute_capability: str | None = None
    power_limit_watts: NonNegative | None = None
    mig: Annotated[bool | None, Meta(description="Whether the GPU is partitioned into MIG instances.")] = None
    ecc: Annotated[bool | None, Meta(description="Whether error correction is on.")] = None
    compute_mode: str | None = None
    start: GpuState = GpuState()  # before the benchmark
    end: Annotated[GpuState | None, Meta(description="After the last round; null if it was not reached.")] = None
    other_processes: Annotated[tuple[GpuProcess, ...] | None, Meta(description="Null: unknown.")] = None


class GpuSettings(Struct, frozen=True, kw_only=True):
    """Settings of torch in the workers that affect a GPU."""

    tf32_matmul: bool | None = None  # whether matrix products of fp32 tensors use TF32
    tf32_convolution: bool | None = None
    allocator: Annotated[str | None, Meta(description="PYTORCH_ALLOC_CONF or PYTORCH_CUDA_ALLOC_CONF.")] = None
