"""Messages between the runner and a worker, and the data collected for an arm. Imports no torch."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from optadvise.benchmark.gpu_records import GpuSettings
from optadvise.benchmark.records import PeakMemory, RankResult, Status
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.error_codes import ErrorCode


class StartArm(Struct, frozen=True):
    """First message to a worker."""

    spec: Spec
    arm: Arm


class ArmCommand(Struct, frozen=True):
    """Later message to a worker."""

    command: Literal["round", "finish", "parity", "end"]
    measures_bandwidth: bool = False  # with `finish`


class WorkerEnvironment(Struct, frozen=True, kw_only=True):
    """Device and packages of a worker."""

    device: str | None = None
    device_name: str | None = None  # name of the GPU; None on the CPU
    threads: int | None = None  # CPU threads of torch
    packages: dict[str, str] = {}  # versions
    gpu_settings: GpuSettings | None = None  # None on the CPU


class ArmCounts(Struct, frozen=True, kw_only=True, tag="ready", tag_field="event"):
    """Answer to `StartArm`: counts after the first step, the largest of all ranks. None: does not apply."""

    first_step_seconds: float | None = None
    environment: WorkerEnvironment = WorkerEnvironment()
    parameters: int | None = None  # of the whole network, not per rank
    parameter_bytes: int | None = None
    gradient_bytes: int | None = None
    tensors: int | None = None
    state_bytes: int | None = None
    paged_bytes: int | None = None  # of the state in managed memory, which no allocator counts; None without CUDA
    free_bytes: int | None = None  # of the GPU, after the first steps; None without CUDA
    state_bytes_per_parameter: float | None = None
    total_state_bytes: int | None = None  # sum over ranks; None for a single process
    bytes_per_step: int | None = None  # minimum memory traffic of one optimizer step; None for several ranks
    samples_per_step: int | None = None  # sum over ranks
    unit: str | None = None  # of the throughput


class RoundSamples(Struct, frozen=True, tag="round", tag_field="event"):
    """Answer to `round`: seconds of every step, by part of the step.

    `cpu` is the CPU time of the training thread in the step, only on a CPU and for a single process.
    """

    samples: dict[str, list[float]]


class ArmSummary(Struct, frozen=True, kw_only=True, tag="done", tag_field="event"):
    """Answer to `finish`: memory, losses and bandwidth of the arm."""

    peak_memory_bytes: PeakMemory = PeakMemory()
    transient_bytes: int | None = None  # None without CUDA
    overhead_seconds: float | None = None  # of an optimizer step on as many tensors of one element; None: not measured
    losses: list[float | None] = []  # one per step; None: not finite
    finite: bool | None = None  # whether all losses and weights are finite
    device_bandwidth: float | None = None  # bytes per second of large copies; None for several ranks, or if it is known
    ranks: tuple[RankResult, ...] | None = None  # None for a single process
    independent_step_seconds: float | None = None  # of a single process with one rank's batch


class Parity(Struct, frozen=True, tag="parity", tag_field="event"):
    """Answer to `parity`."""

    distance: float  # between the ranks' weights and a single process's, relative to the length of its update


class ArmFailure(Struct, frozen=True, kw_only=True, tag="failed", tag_field="event"):
    """Answer to any message: the arm failed."""

    status: Status | Literal["input"]  # input: the workload is invalid, which ends the whole run
    error: str
    code: ErrorCode = ErrorCode.INTERNAL
    option: str = ""  # that an invalid input is about
    value: str | None = None  # of the option
    peak_memory_bytes: PeakMemory | None = None  # None if it could not be read


class ArmMeasurement(Struct, kw_only=True):
    """Data collected for one arm; the runner fills it in."""

    arm: Arm
    counts: ArmCounts = ArmCounts()
    rounds: list[dict[str, list[float]]] = field(default_factory=list)  # seconds by part of the step
    summary: ArmSummary = ArmSummary()  # empty until the arm has finished
    failure: ArmFailure | None = None
    interleaved: bool = True  # False: measured alone, as the arms do not fit into memory together

    def record(self, answer: ArmCounts | RoundSamples | ArmSummary | Parity | ArmFailure) -> None:
        """Add the data of one answer; for arms that are measured in this process."""
        if isinstance(answer, ArmCounts):
            self.counts = answer
        elif isinstance(answer, RoundSamples):
            self.rounds.append(answer.samples)
        elif isinstance(answer, ArmSummary):
            self.summary = answer
