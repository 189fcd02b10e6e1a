"""Typed records of benchmark results, which define their JSON and its schema.

Sizes are in bytes, times in seconds. None means not measured; it is never replaced by 0.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from optadvise.benchmark.gpu_records import GpuConditions, GpuSettings
from optadvise.benchmark.spec import NonNegativeInt, PositiveInt, Role, Spec
from optadvise.core.cards import Value

Status = Literal["ok", "oom", "error", "unsupported"]
Verdict = Literal["pass", "fail", "inconclusive"]
NonNegative = Annotated[float, Meta(ge=0)]

SCHEMA_VERSION: Final = 1
MAX_ARMS = 500  # of a result: the optimizers and implementations that exist, several times
PARTS = ("step", "forward", "backward", "optimizer")  # timed parts of a training step


class Interval(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """95 % confidence interval (low, high) in the unit of its figure."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the order of the ends.

        Raises:
            ValueError: The high end is below the low end, or an end is NaN.
        """
        if not self.low <= self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] must be ordered")

    @property
    def ends(self) -> tuple[float, float]:
        """Return low and high."""
        return self.low, self.high

    def contains(self, value: float) -> bool:
        """Return whether the interval contains a value."""
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """Return the interval of the figure multiplied by a positive factor."""
        return Interval(self.low * factor, self.high * factor)

    def inverted(self, numerator: float = 1.0) -> Interval | None:
        """Return the interval of a positive numerator divided by the figure; None if an end is not finite."""
        if self.low <= 0 or math.isinf(numerator / self.low):
            return None
        return Interval(numerator / self.high, numerator / self.low)


OptionalInterval = Annotated[
    Interval | None, Meta(description="Null: too few samples for an interval, or an exact figure.")
]


class Figure(Struct, frozen=True):
    """Measured value in the unit of its metric, with its interval."""

    value: float
    interval: Interval | None = None  # None: exact, or too few samples


def _check_interval(value: float | None, interval: Interval | None) -> None:
    """Check that an interval contains its value.

    Raises:
        ValueError: The value is missing or outside the interval.
    """
    if interval is not None and (value is None or not interval.contains(value)):
        raise ValueError(f"{value} must be within [{interval.low}, {interval.high}]")


class Machine(Struct, frozen=True, kw_only=True):
    """Machine and software of the measuring process."""

    optadvise: str
    python: str
    platform: str
    processor: str
    cores: PositiveInt | None  # available to this process
    load: Annotated[NonNegative | None, Meta(description="One-minute load average before the benchmark.")]
    executable: str | None = None  # file name of the Python interpreter
    gpu: Annotated[GpuConditions | None, Meta(description="Null on the CPU, or without nvidia-smi.")] = None
    gpus: Annotated[
        tuple[GpuConditions, ...], Meta(description="All GPUs of several processes, the first is `gpu`; else empty.")
    ] = ()

    def list_gpus(self) -> tuple[GpuConditions, ...]:
        """Return all GPUs of the benchmark; empty on the CPU, or without nvidia-smi."""
        return self.gpus or (() if self.gpu is None else (self.gpu,))


class Environment(Machine, frozen=True, kw_only=True):
    """Machine and software of a benchmark; the workers report device, threads and packages."""

    packages: Annotated[dict[str, str], Meta(description="Versions; empty if no worker started.")]
    device: str | None = None
    device_name: Annotated[str | None, Meta(description="Name of the GPU; null on the CPU.")] = None
    threads: PositiveInt | None = None  # CPU threads of torch
    gpu_settings: Annotated[GpuSettings | None, Meta(description="Null on the CPU.")] = None


class Timing(Struct, frozen=True, kw_only=True):
    """Seconds of a training step or of one part."""

    median: NonNegative | None = None
    ci95: OptionalInterval = None
    samples: tuple[NonNegative, ...] = ()

    def __post_init__(self) -> None:
        """Check that the interval contains the median."""
        _check_interval(self.median, self.ci95)


class PeakMemory(Struct, frozen=True, kw_only=True):
    """Peak memory so far: GPU memory with CUDA, main memory otherwise."""

    allocated: NonNegativeInt | None = None  # by torch's allocator
    reserved: NonNegativeInt | None = None  # by torch's allocator
    process: NonNegativeInt | None = None  # whole process
    paged: NonNegativeInt | None = None  # state in managed memory, which the allocator does not count


class UsedImplementation(Struct, frozen=True, kw_only=True):
    """Class that computed an optimizer, with its constructor arguments."""

    path: str = field(name="import")
    package: str | None
    variant: str | None
    kwargs: dict[str, Value]


class Throughput(Struct, frozen=True, kw_only=True):
    """Samples or batches per second, summed over processes."""

    value: NonNegative | None = None
    unit: str = "samples/s"
    ci95: OptionalInterval = None

    def __post_init__(self) -> None:
        """Check that the interval contains the value."""
        _check_interval(self.value, self.ci95)


class Bandwidth(Struct, frozen=True, kw_only=True):
    """Memory bandwidth of the optimizer step, in bytes per second."""

    bytes_per_step: NonNegativeInt | None  # minimum traffic of one step
    achieved: NonNegative | None
    device: Annotated[NonNegative | None, Meta(description="Bandwidth of a large copy on this device.")]
    fraction: NonNegative | None  # achieved over device
    bound: str | None  # limit other than bandwidth, such as kernel launches


class Loss(Struct, frozen=True, kw_only=True):
    """Training loss. Null: not finite, or not measured."""

    first: float | None = None
    last: float | None = None
    finite: bool | None = None  # whether all losses and weights are finite


class RankResult(Struct, frozen=True, kw_only=True):
    """Memory and times of one rank."""

    rank: NonNegativeInt
    peak_memory_bytes: PeakMemory
    finite: bool | None = None
    parameter_bytes: NonNegativeInt
    gradient_bytes: NonNegativeInt
    state_bytes: NonNegativeInt
    step_seconds: NonNegative  # medians
    forward_seconds: NonNegative | None = None
    backward_seconds: NonNegative | None = None
    optimizer_seconds: NonNegative
    communication_share: NonNegative  # fraction of the step time


class ArmResult(Struct, frozen=True, kw_only=True):
    """Results of one arm. `error` is text for people; `error_code` is stable, see `docs/errors.md`."""

    optimizer: str
    label: Annotated[str, Meta(description="Unique within the result.")]
    role: Role
    status: Status
    error: str | None
    error_code: Annotated[
        str | None, Meta(description="Stable code of the error, such as out-of-memory or worker-timeout.")
    ] = None
    implementation: UsedImplementation
    deviates: Annotated[str | None, Meta(description="How the update differs from the paper's.")]
    parameters: NonNegativeInt | None
    parameter_bytes: NonNegativeInt | None
    gradient_bytes: NonNegativeInt | None
    state_bytes: NonNegativeInt | None
    state_bytes_per_parameter: NonNegative | None
    tensors: NonNegativeInt | None
    peak_memory_bytes: PeakMemory
    transient_bytes: Annotated[int | None, Meta(description="Bytes that one optimizer step allocates temporarily.")]
    paged_bytes: Annotated[
        NonNegativeInt | None, Meta(description="State in managed memory; null if the optimizer does not page.")
    ] = None
    overhead_seconds: Annotated[
        NonNegative | None,
        Meta(description="Optimizer step on as many tensors of one element: launches and Python, without data."),
    ] = None
    ranks: Annotated[tuple[RankResult, ...] | None, Meta(description="Null for a single process.")] = None
    total_state_bytes: Annotated[
        NonNegativeInt | None, Meta(description="Sum over ranks; state_bytes is the maximum.")
    ] = None
    communication_share: Annotated[
        NonNegative | None,
        Meta(description="Fraction of the step time, maximum over ranks; may overlap with computation."),
    ] = None
    scaling_efficiency: Annotated[
        NonNegative | None, Meta(description="Throughput relative to that of as many independent processes.")
    ] = None
    step_seconds: Timing
    forward_seconds: Timing
    backward_seconds: Timing
    optimizer_seconds: Timing
    optimizer_share: NonNegative | None  # fraction of the step time
    cpu_share: Annotated[
        NonNegative | None,
        Meta(
            description="Fraction of the step time in which the training thread ran on a core, 1 on an idle machine. "
            "Null on a GPU and for several processes."
        ),
    ] = None
    first_step_seconds: Annotated[
        NonNegative | None, Meta(description="Includes state allocation and compilation; not part of the other times.")
    ]
    throughput: Throughput
    bandwidth: Bandwidth
    loss: Loss

    def timing(self, part: str) -> Timing:
        """Return the timing of one of PARTS."""
        timing: Timing = getattr(self, f"{part}_seconds")
        return timing


class Ratio(Struct, frozen=True, kw_only=True):
    """Ratio of an arm's figure to the control's, paired by round."""

    optimizer: str
    label: str
    versus: str  # optimizer of the control
    metric: str
    ratio: NonNegative
    ci95: OptionalInterval

    def __post_init__(self) -> None:
        """Check that the interval contains the ratio."""
        _check_interval(self.ratio, self.ci95)


class RequirementResult(Struct, frozen=True, kw_only=True):
    """Verdict of one `--require` for one arm."""

    text: str  # as typed
    metric: str
    relative: bool  # whether the bound is a multiple of the control
    optimizer: str
    label: str
    measured: float | None
    ci95: OptionalInterval
    verdict: Verdict
    rounds_needed: Annotated[
        PositiveInt | None, Meta(description="About how many rounds would decide; null if decided or unknown.")
    ] = None


class BenchmarkWarning(Struct, frozen=True):
    """Sign that other programs disturbed the benchmark, so that its times are unreliable."""

    id: Annotated[str, Meta(description="Stable: busy-processor or varying-rounds.")]
    text: str


class BenchmarkResult(Struct, frozen=True, kw_only=True):
    """Schema version 1: keys may be added, never renamed. Null means not measured. Units are bytes and seconds."""

    schema_version: Literal[1]
    kind: Literal["bench"]
    complete: Annotated[bool, Meta(description="False if the benchmark was interrupted.")]
    environment: Environment
    spec: Spec
    interleaved: Annotated[
        bool, Meta(description="False: the arms do not fit into memory together and were measured one by one.")
    ] = True
    arms: Annotated[tuple[ArmResult, ...], Meta(min_length=1, max_length=MAX_ARMS)]
    ratios: tuple[Ratio, ...]
    requirements: tuple[RequirementResult, ...]
    verdict: Verdict | None
    warnings: Annotated[
        tuple[BenchmarkWarning, ...],
        Meta(description="Signs of a busy machine; recommendations use no times of a result that has one."),
    ] = ()

    def __post_init__(self) -> None:
        """Check that labels are unique, as ratios refer to them.

        Raises:
            ValueError: Two arms have the same label.
        """
        labels = [arm.label for arm in self.arms]
        duplicate = next((label for label in labels if labels.count(label) > 1), None)
        if duplicate is not None:
            raise ValueError(f"two arms have the label {duplicate!r}")

    def find_ratio(self, label: str, metric: str) -> Ratio | None:
        """Return an arm's ratio to the control; None without one."""
        return next((ratio for ratio in self.ratios if (ratio.label, ratio.metric) == (label, metric)), None)
