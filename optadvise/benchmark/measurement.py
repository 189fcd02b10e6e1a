"""Messages between a run and the worker of an arm, and what the run has collected of the arm. Imports no torch."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from optadvise.benchmark.records import PeakMemory, RankResult, Status
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.error_codes import ErrorCode


class StartArm(Struct, frozen=True):
    """First message to a worker."""

    spec: Spec
    arm: Arm


class ArmCommand(Struct, frozen=True):
    """Any further message to a worker."""

    command: Literal["round", "finish", "parity", "end"]


class WorkerEnvironment(Struct, frozen=True, kw_only=True):
    """Device and packages as a worker sees them."""

    device: str | None = None
    device_name: str | None = None  # of the GPU
    threads: int | None = None  # of torch
    packages: dict[str, str] = {}  # versions


class ArmCounts(Struct, frozen=True, kw_only=True, tag="ready", tag_field="event"):
    """Answer to the start: counts after the first step, of the rank that holds most. None: does not apply."""

    first_step_seconds: float | None = None
    environment: WorkerEnvironment = WorkerEnvironment()
    parameters: int | None = None  # of the whole network
    parameter_bytes: int | None = None
    gradient_bytes: int | None = None
    tensors: int | None = None
    state_bytes: int | None = None
    state_bytes_per_parameter: float | None = None
    total_state_bytes: int | None = None  # of all ranks; None for one process
    bytes_per_step: int | None = None  # least traffic of one optimizer step; None for several ranks
    samples_per_step: int | None = None  # of all ranks
    unit: str | None = None  # of the throughput


class RoundSamples(Struct, frozen=True, tag="round", tag_field="event"):
    """Answer to `round`: seconds of every step, by the part of the step."""

    samples: dict[str, list[float]]


class ArmSummary(Struct, frozen=True, kw_only=True, tag="done", tag_field="event"):
    """Answer to `finish`: memory, losses and bandwidth at the end of an arm."""

    peak_memory_bytes: PeakMemory = PeakMemory()
    transient_bytes: int | None = None  # None off CUDA
    losses: list[float | None] = []  # of every step; None: not finite
    finite: bool | None = None  # all losses and weights
    device_bandwidth: float | None = None  # bytes per second of a large copy; None for several ranks
    ranks: tuple[RankResult, ...] | None = None  # None for one process
    independent_step_seconds: float | None = None  # of one process with a rank's share of the batch


class Parity(Struct, frozen=True, tag="parity", tag_field="event"):
    """Answer to `parity`."""

    distance: float  # of the ranks' weights from one process's, as a share of the distance that it moved


class ArmFailure(Struct, frozen=True, kw_only=True, tag="failed", tag_field="event"):
    """Answer to anything: the arm ended early."""

    status: Status | Literal["input"]  # input: the workload is invalid, which ends the whole run
    error: str
    code: ErrorCode = ErrorCode.INTERNAL
    option: str = ""  # that an invalid input is about
    value: str | None = None  # of the option
    peak_memory_bytes: PeakMemory | None = None  # where the worker could still read it


class ArmMeasurement(Struct, kw_only=True):
    """Data of one arm so far; the runner fills it in."""

    arm: Arm
    counts: ArmCounts = ArmCounts()
    rounds: list[dict[str, list[float]]] = field(default_factory=list)  # samples of each round, by the part of the step
    summary: ArmSummary = ArmSummary()  # empty until the arm has finished
    failure: ArmFailure | None = None
