"""Communication metrics of several ranks: time spent, speed of an independent process, and parity with one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from optadvise.benchmark.distributed import wrapping
from optadvise.benchmark.distributed.ranks import Ranks
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.training_loop import Training, build_part

_PROFILED_STEPS = 3


def communication_share(training: Training) -> float:
    """Take some steps and return the share of their time in which this rank communicates, computing or not."""
    is_cuda = training.spec.device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as profiler:
        begin = time.perf_counter()
        for _ in range(_PROFILED_STEPS):
            training.step()
        seconds = time.perf_counter() - begin
    prefix = "nccldevkernel" if is_cuda else "gloo:"
    spans = [
        (event.time_range.start, event.time_range.end)  # microseconds
        for event in profiler.events()
        if event.name.lower().startswith(prefix)
    ]
    return min(1.0, union_length(spans) / 1e6 / seconds)


def union_length(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, in their unit.

    Example:
        >>> union_length([(0, 2), (1, 3), (5, 6)])
        4.0
    """
    total, until = 0.0, -float("inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def independent_step_seconds(spec: Spec, arm: Arm) -> float | None:
    """Return the median seconds of a step of one independent process with its share of the batch; None if it fails."""
    try:
        training = Training(spec, arm)
        for _ in range(1 + spec.warmup):
            training.step()
        return statistics.median(training.round().samples["step"])
    except Exception:  # sharding is for what does not fit, and nothing that was measured is lost to this
        return None


def parity(training: Training, ranks: Ranks) -> float:
    """Return the distance of the ranks' weights from those of one process that saw all their batches.

    It is a share of the distance that the one process moved. Every rank calls this, after the steps to compare.
    """
    weights = torch.cat([wrapping.gather_tensor(p).double().flatten() for _, p in training.named])
    distance = 0.0
    if ranks.number == 0:
        reference = Training(training.spec, training.arm)
        assert reference.workload is not None
        initial = _flatten_weights(reference)
        parts = [build_part(training.spec, rank).batches for rank in range(ranks.count)]
        reference.workload.batches = map(_concatenate, zip(*parts, strict=True))
        for _ in training.losses:
            reference.step()
        final = _flatten_weights(reference)
        distance = float((weights - final).norm() / (final - initial).norm())
    ranks.share(None)  # the others wait
    return distance


def _flatten_weights(training: Training) -> Tensor:
    return torch.cat([p.detach().double().flatten() for _, p in training.named])


def _concatenate(batches: Sequence[Any]) -> Tensor | tuple[object, ...]:
    """Return the batches of all ranks as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))
    return tuple(map(_concatenate, zip(*batches, strict=True)))
