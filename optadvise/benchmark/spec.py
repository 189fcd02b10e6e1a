"""Settings of a benchmark and its arms, as sent to workers and stored in results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.core.cards import Phase, Value
from optadvise.core.error_codes import ErrorCode

ModelSize = Literal["tiny", "small", "medium"]
DType = Literal["fp32", "bf16", "amp-bf16", "amp-fp16"]
Sharding = Literal["none", "zero1", "fsdp"]  # DDP, ZeroRedundancyOptimizer, FSDP2
Role = Literal["candidate", "control"]
NonNegativeInt = Annotated[int, Meta(ge=0)]
PositiveInt = Annotated[int, Meta(ge=1)]


class Spec(Struct, frozen=True):
    """Settings that all arms share. Null: default of the workload."""

    workload: str = "transformer"  # built-in workload or `package.module:function`
    user: bool = False  # whether the workload is the user's function
    size: ModelSize = "tiny"
    params: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    seq_len: PositiveInt | None = None
    dtype: DType = "fp32"
    device: str = "cpu"
    steps: Annotated[int, Meta(ge=1, description="Measured steps per round.")] = 10
    rounds: PositiveInt = 7
    warmup: NonNegativeInt = 3  # unmeasured steps after the first step
    seed: int = 0
    threads: PositiveInt | None = None  # CPU threads of torch; None: all available cores
    compile: bool = False  # torch.compile the model
    optimizer_only: bool = False  # time step() alone, with random gradients
    nproc: Annotated[int, Meta(ge=1, description="Processes that train together and split each batch.")] = 1
    shard: Annotated[
        Sharding, Meta(description="Sharded across processes: nothing (DDP), optimizer state, or everything.")
    ] = "none"

    @property
    def total_steps(self) -> int:
        """Return the number of steps per arm, which is also the length of its schedule."""
        return 1 + self.warmup + self.rounds * self.steps

    @property
    def device_type(self) -> str:
        """Return the device without its index: cpu or cuda."""
        return self.device.split(":")[0]

    @property
    def sharding(self) -> Sharding | None:
        """Return the sharding strategy; None for a single process."""
        return self.shard if self.nproc > 1 else None


class Companion(Struct, frozen=True):
    """Optimizer of the parameters that an optimizer of matrices or embedding tables does not support."""

    path: str  # import path
    package: str | None
    kwargs: Mapping[str, Value]


class Arm(Struct, frozen=True):
    """One optimizer configuration to measure."""

    optimizer: str
    label: str  # unique in a run: the id, with the implementation if several run
    role: Role
    path: str  # import path
    package: str | None
    variant: str | None  # fused, foreach, for-loop, compiled
    kwargs: Mapping[str, Value]
    decay_argument: str | None  # constructor's name for weight decay, set to 0 for biases and norms
    tensors: Literal["matrix", "table"] | None = None  # the only tensors that it trains; None: all
    sparse_only: bool = False  # rejects dense gradients
    companion: Companion | None = None
    paged: bool = False  # its state can be in managed memory
    train_mode: bool = False  # call the optimizer's train() after construction
    max_grad_norm: float | None = None
    phases: tuple[Phase, ...] = ()  # of the schedule
    milestones: tuple[int, ...] = ()  # steps at which the next phase begins
    unsupported: str | None = None  # why it cannot run here, if known before the start
    unsupported_code: ErrorCode = ErrorCode.UNSUPPORTED
    deviates: str | None = None  # how the update differs from the paper's

    @property
    def import_paths(self) -> tuple[str, ...]:
        """Return the import paths of all classes."""
        companion = () if self.companion is None else (self.companion.path,)
        return (self.path, *companion, *(phase.path for phase in self.phases))
