"""Typed records of benchmark results: reading, JSON output and the JSON Schemas come from these declarations.

Sizes are in bytes and times in seconds. None is a figure that was not measured, never 0.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from optadvise.benchmark.spec import NonNegativeInt, PositiveInt, Role, Spec
from optadvise.core.cards import Value

Status = Literal["ok", "oom", "error", "unsupported"]
Verdict = Literal["pass", "fail", "inconclusive"]
NonNegative = Annotated[float, Meta(ge=0)]

SCHEMA_VERSION: Final = 1
PARTS = ("step", "forward", "backward", "optimizer")  # of a training step, each timed


class Interval(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """95 % confidence interval in the unit of its figure: low, high."""

    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """Return low and high."""
        return self.low, self.high

    def contains(self, value: float) -> bool:
        """Return whether a figure lies in the interval."""
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """Return the interval of the figure times a positive factor."""
        return Interval(self.low * factor, self.high * factor)

    def inverted(self, numerator: float = 1.0) -> Interval:
        """Return the interval of a positive numerator divided by the figure."""
        return Interval(numerator / self.high, numerator / self.low)


OptionalInterval = Annotated[
    Interval | None, Meta(description="Null: too few samples for an interval, or an exact figure.")
]


class Figure(Struct, frozen=True):
    """A measured figure in the unit of its metric, with its interval."""

    value: float
    interval: Interval | None = None  # None: exact, or too few samples


def _check_interval(value: float | None, interval: Interval | None) -> None:
    """Reject an interval that does not contain its figure.

    Raises:
        ValueError: The figure is missing or lies outside the interval.
    """
    if interval is not None and (value is None or not interval.contains(value)):
        raise ValueError(f"{value} does not lie in [{interval.low}, {interval.high}]")


class Machine(Struct, frozen=True, kw_only=True):
    """Machine and software of the measuring process."""

    optadvise: str
    python: str
    platform: str
    processor: str
    cores: PositiveInt | None  # that this process may use
    load: Annotated[NonNegative | None, Meta(description="Load average of one minute, before measuring.")]
    executable: str | None = None  # name of the Python program


class Environment(Machine, frozen=True, kw_only=True):
    """Machine and software of a measurement. Device, threads and packages are as the workers report them."""

    packages: Annotated[dict[str, str], Meta(description="Versions; empty where no worker started.")]
    device: str | None = None
    device_name: Annotated[str | None, Meta(description="Of the GPU; null on the CPU.")] = None
    threads: PositiveInt | None = None  # of torch


class Timing(Struct, frozen=True, kw_only=True):
    """Seconds of one step, or of a part of it."""

    median: NonNegative | None = None
    ci95: OptionalInterval = None
    samples: tuple[NonNegative, ...] = ()

    def __post_init__(self) -> None:
        """Reject an interval without its median."""
        _check_interval(self.median, self.ci95)


class PeakMemory(Struct, frozen=True, kw_only=True):
    """Largest memory so far: on the GPU where there is one, in main memory otherwise."""

    allocated: NonNegativeInt | None = None  # by torch's allocator
    reserved: NonNegativeInt | None = None  # by torch's allocator
    process: NonNegativeInt | None = None  # of the whole process


class UsedImplementation(Struct, frozen=True, kw_only=True):
    """Class that computed an optimizer, and its arguments."""

    path: str = field(name="import")
    package: str | None
    variant: str | None
    kwargs: dict[str, Value]


class Throughput(Struct, frozen=True, kw_only=True):
    """Samples or batches per second, of all processes together."""

    value: NonNegative | None = None
    unit: str = "samples/s"
    ci95: OptionalInterval = None

    def __post_init__(self) -> None:
        """Reject an interval without its figure."""
        _check_interval(self.value, self.ci95)


class Bandwidth(Struct, frozen=True, kw_only=True):
    """Memory traffic of the optimizer's step, in bytes per second."""

    bytes_per_step: NonNegativeInt | None  # least traffic of one step
    achieved: NonNegative | None
    device: Annotated[NonNegative | None, Meta(description="Of a large copy on this device.")]
    fraction: NonNegative | None  # achieved over device
    bound: str | None  # what limits the step instead of bandwidth


class Loss(Struct, frozen=True, kw_only=True):
    """Training loss. Null: not finite, or not measured."""

    first: float | None = None
    last: float | None = None
    finite: bool | None = None  # all losses and weights


class RankResult(Struct, frozen=True, kw_only=True):
    """Memory and times of one of several processes."""

    rank: NonNegativeInt
    peak_memory_bytes: PeakMemory
    finite: bool | None = None
    parameter_bytes: NonNegativeInt
    gradient_bytes: NonNegativeInt
    state_bytes: NonNegativeInt
    step_seconds: NonNegative  # median, as all below
    forward_seconds: NonNegative | None = None
    backward_seconds: NonNegative | None = None
    optimizer_seconds: NonNegative
    communication_share: NonNegative  # of a step's time


class ArmResult(Struct, frozen=True, kw_only=True):
    """Measured figures of one optimizer."""

    optimizer: str
    label: Annotated[str, Meta(description="Unique in a result.")]
    role: Role
    status: Status
    error: str | None
    error_code: Annotated[
        str | None, Meta(description="Stable code of the error, such as out-of-memory or worker-timeout.")
    ] = None
    implementation: UsedImplementation
    deviates: Annotated[str | None, Meta(description="How its update differs from the paper's.")]
    parameters: NonNegativeInt | None
    parameter_bytes: NonNegativeInt | None
    gradient_bytes: NonNegativeInt | None
    state_bytes: NonNegativeInt | None
    state_bytes_per_parameter: NonNegative | None
    tensors: NonNegativeInt | None
    peak_memory_bytes: PeakMemory
    transient_bytes: Annotated[int | None, Meta(description="What one optimizer step allocates and frees again.")]
    ranks: Annotated[tuple[RankResult, ...] | None, Meta(description="Null for one process.")] = None
    total_state_bytes: Annotated[
        NonNegativeInt | None, Meta(description="Of all ranks; state_bytes is that of the rank that holds most.")
    ] = None
    communication_share: Annotated[
        NonNegative | None, Meta(description="Of a step, on the rank where it is largest; may overlap with computing.")
    ] = None
    scaling_efficiency: Annotated[
        NonNegative | None, Meta(description="Throughput over that of as many independent processes.")
    ] = None
    step_seconds: Timing
    forward_seconds: Timing
    backward_seconds: Timing
    optimizer_seconds: Timing
    optimizer_share: NonNegative | None  # of a step's time
    first_step_seconds: Annotated[
        NonNegative | None, Meta(description="The step that allocates and compiles; it is in no other figure.")
    ]
    throughput: Throughput
    bandwidth: Bandwidth
    loss: Loss

    def timing(self, part: str) -> Timing:
        """Return the timing of a part of the step, one of PARTS."""
        timing: Timing = getattr(self, f"{part}_seconds")
        return timing


class Ratio(Struct, frozen=True, kw_only=True):
    """A figure of an arm over the control's, from rounds that were measured next to each other."""

    optimizer: str
    label: str
    versus: str  # the control's optimizer
    metric: str
    ratio: NonNegative
    ci95: OptionalInterval

    def __post_init__(self) -> None:
        """Reject an interval without its ratio."""
        _check_interval(self.ratio, self.ci95)


class RequirementResult(Struct, frozen=True, kw_only=True):
    """Verdict on one `--require` for one arm."""

    text: str  # as typed
    metric: str
    relative: bool  # to the control
    optimizer: str
    label: str
    measured: float | None
    ci95: OptionalInterval
    verdict: Verdict


class BenchmarkResult(Struct, frozen=True, kw_only=True):
    """Schema version 1. Keys may be added, never renamed. Null means not measured, never 0. Bytes and seconds."""

    schema_version: Literal[1]
    kind: Literal["bench"]
    complete: Annotated[bool, Meta(description="False where it was interrupted.")]
    environment: Environment
    spec: Spec
    arms: Annotated[tuple[ArmResult, ...], Meta(min_length=1)]
    ratios: tuple[Ratio, ...]
    requirements: tuple[RequirementResult, ...]
    verdict: Verdict | None

    def find_ratio(self, label: str, metric: str) -> Ratio | None:
        """Return an arm's ratio to the control; None where there is none."""
        return next((ratio for ratio in self.ratios if (ratio.label, ratio.metric) == (label, metric)), None)
