"""Several ranks as one: how long they talk, how fast one is alone, and whether they come where one process comes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optadvise.benchmark import workloads
from optadvise.benchmark.distributed import wrapping
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.training_loop import Training

if TYPE_CHECKING:
    from optadvise.benchmark.distributed.ranks import Ranks

_PROFILED = 3  # steps


def communication_share(training: Training) -> float:
    """Take some steps and return the share of their time in which this rank communicates, computing or not."""
    from torch.profiler import ProfilerActivity, profile

    cuda = training.spec.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiled:
        begin = time.perf_counter()
        for _ in range(_PROFILED):
            training.step()
        taken = time.perf_counter() - begin
    word = "nccldevkernel" if cuda else "gloo:"
    spans = [(event.time_range.start, event.time_range.end) for event in profiled.events()
             if event.name.lower().startswith(word)]  # fmt: skip
    return min(1.0, covered(spans) / 1e6 / taken)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length that intervals cover together, in their unit.

    Example:
        >>> covered([(0, 2), (1, 3), (5, 6)])
        4.0
    """
    total, until = 0.0, -float("inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def alone_seconds(spec: Spec, arm: Arm) -> float | None:
    """Return the median seconds of a step of one process by itself with its share of the batch; None if it fails.

    Args:
        spec: The conditions of all ranks.
        arm: The optimizer.
    """
    try:
        training = Training(spec, arm)
        for _ in range(1 + spec.warmup):
            training.step()
        return statistics.median(training.round()["step"])
    except Exception:  # sharding is for what does not fit, and nothing that was measured is lost to this
        return None


def parity(training: Training, ranks: Ranks) -> float:
    """Return how far the weights of several ranks are from those of one process that saw all their batches.

    As a share of the way that the one went. Every rank calls it, after as many steps as it wants to compare.

    Args:
        training: Of this rank.
        ranks: This rank among the others.
    """
    mine = torch.cat([wrapping.whole(p).double().flatten() for _, p in training.named])
    share = 0.0
    if ranks.number == 0:
        one = Training(training.spec, training.arm)
        assert one.workload is not None
        begin = torch.cat([p.detach().double().flatten() for _, p in one.named])
        parts = [workloads.build(**{**training.shape, "rank": rank}).batches for rank in range(ranks.count)]
        one.workload.batches = map(_joined, zip(*parts, strict=True))
        for _ in training.losses:
            one.step()
        theirs = torch.cat([p.detach().double().flatten() for _, p in one.named])
        share = float((mine - theirs).norm() / (theirs - begin).norm())
    ranks.share(None)  # the others wait
    return share


def _joined(batches: Sequence[Any]) -> Any:
    """Return the batches of all ranks as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))
    return tuple(map(_joined, zip(*batches, strict=True)))
