"""Conditions of a measurement and its arms, as data that goes to the workers and into the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.core.cards import Phase, Value
from optadvise.core.error_codes import ErrorCode

ModelSize = Literal["tiny", "small", "medium"]
DType = Literal["fp32", "bf16", "amp-bf16", "amp-fp16"]
Sharding = Literal["none", "zero1", "fsdp"]  # of several processes: DDP, ZeroRedundancyOptimizer, FSDP2
Role = Literal["candidate", "control"]
NonNegativeInt = Annotated[int, Meta(ge=0)]
PositiveInt = Annotated[int, Meta(ge=1)]


class Spec(Struct, frozen=True):
    """Conditions that all arms share. Null: the workload's own."""

    workload: str = "transformer"  # a built-in one, or the user's `package.module:function`
    user: bool = False  # the workload is the user's
    size: ModelSize = "tiny"
    params: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    seq_len: PositiveInt | None = None
    dtype: DType = "fp32"
    device: str = "cpu"
    steps: Annotated[int, Meta(ge=1, description="Measured steps per round.")] = 10
    rounds: PositiveInt = 7
    warmup: NonNegativeInt = 3  # steps after the first that are not counted
    seed: int = 0
    threads: PositiveInt | None = None  # of torch on the CPU; None: as many as this process may use
    compile: bool = False  # the model
    optimizer_only: bool = False  # only step(), on given shapes with random gradients
    nproc: Annotated[int, Meta(ge=1, description="Processes that train together, each with a share of a batch.")] = 1
    shard: Annotated[
        Sharding, Meta(description="Shared between the processes: nothing (DDP), the optimizer's state, or all.")
    ] = "none"

    @property
    def total_steps(self) -> int:
        """Return the number of steps that an arm takes, which its schedule spans."""
        return 1 + self.warmup + self.rounds * self.steps

    @property
    def device_type(self) -> str:
        """Return the kind of device without its number: cpu or cuda."""
        return self.device.split(":")[0]

    @property
    def sharding(self) -> Sharding | None:
        """Return how several processes share a network; None for one process."""
        return self.shard if self.nproc > 1 else None


class Companion(Struct, frozen=True):
    """Optimizer of the tensors that a matrix optimizer does not take."""

    path: str  # import path
    package: str | None
    kwargs: Mapping[str, Value]


class Arm(Struct, frozen=True):
    """One optimizer under test, ready to be built."""

    optimizer: str
    label: str  # unique in a run: the id, with the implementation where several run
    role: Role
    path: str  # import path
    package: str | None
    variant: str | None  # fused, foreach, for-loop, compiled
    kwargs: Mapping[str, Value]
    decay_argument: str | None  # the constructor's name for weight decay, for the group that gets none
    matrices_only: bool = False
    companion: Companion | None = None
    train_mode: bool = False  # call train() after building it
    max_grad_norm: float | None = None
    phases: tuple[Phase, ...] = ()  # of the schedule
    milestones: tuple[int, ...] = ()  # steps at which the next phase begins
    unsupported: str | None = None  # why it cannot run here, where this is known before it starts
    unsupported_code: ErrorCode = ErrorCode.UNSUPPORTED  # code of this reason
    deviates: str | None = None  # how its update differs from the paper's
