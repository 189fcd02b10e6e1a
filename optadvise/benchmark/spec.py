"""What is measured, as plain data that goes to the workers and into the result. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

STATUS = ("ok", "oom", "error", "unsupported")


class Spec(Struct, frozen=True):
    """The conditions that all arms share."""

    workload: str = "transformer"  # a built-in one, or the user's `package.module:function`
    user: bool = False
    size: str = "tiny"
    params: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    dtype: str = "fp32"
    device: str = "cpu"
    steps: int = 10  # measured steps a round
    rounds: int = 7
    warmup: int = 3  # steps after the first that are not counted
    seed: int = 0
    threads: int | None = None  # of torch on the CPU; None: as many as this process may use
    compile: bool = False  # the model
    optimizer_only: bool = False  # only step(), on given shapes with random gradients
    nproc: int = 1  # processes, each with a share of every batch
    shard: str = "none"  # between them: none (DDP), zero1 or fsdp

    @property
    def total_steps(self) -> int:
        """Steps that an arm takes in all, which its schedule spans."""
        return 1 + self.warmup + self.rounds * self.steps


class Arm(Struct, frozen=True):
    """One optimizer under test, ready to be built."""

    optimizer: str
    label: str  # unique in a run: the id, with the implementation where several run
    role: str  # candidate or control
    path: str  # import path
    package: str | None
    variant: str | None  # fused, foreach, for-loop, compiled
    kwargs: Mapping[str, Any]
    decay_argument: str | None  # the constructor's name for weight decay, for the group that gets none
    matrices_only: bool = False
    companion: Mapping[str, Any] | None = None  # path and kwargs for the tensors that this one does not take
    train_mode: bool = False
    max_grad_norm: float | None = None
    phases: tuple[Mapping[str, Any], ...] = ()  # of the schedule: shape, import, kwargs
    milestones: tuple[int, ...] = ()
    unsupported: str | None = None  # why it cannot run here, known before trying
    deviates: str | None = None  # how its update differs from the paper's


def metric_of(arm: Mapping[str, Any], name: str) -> float | None:
    """Return the figure of an arm's result that a metric names; None where it was not measured.

    Args:
        arm: One of a result's `arms`.
        name: A metric, as in `--require`.
    """
    if name == "peak_memory":
        peak = arm.get("peak_memory_bytes") or {}
        return peak.get("allocated") if peak.get("allocated") is not None else peak.get("process")
    if name == "throughput":
        return (arm.get("throughput") or {}).get("value")
    if name == "bandwidth_fraction":
        return (arm.get("bandwidth") or {}).get("fraction")
    if name == "loss_last":
        return (arm.get("loss") or {}).get("last")
    value = arm.get(name)
    return value.get("median") if isinstance(value, Mapping) else value
