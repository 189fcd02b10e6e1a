"""Communication metrics of several ranks: share of time, speed of an independent process, and parity."""

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
from optadvise.benchmark.training_loop import Training, build_rank_workload

_PROFILED_STEPS = 3


def measure_communication_share(training: Training) -> float:
    """Run some steps and return the fraction of time in which this rank communicates, also during computation."""
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
    return min(1.0, compute_union_length(spans) / 1e6 / seconds)


def compute_union_length(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals.

    Example:
        >>> compute_union_length([(0, 2), (1, 3), (5, 6)])
        4.0
    """
    total, until = 0.0, -float("inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def measure_independent_step_seconds(spec: Spec, arm: Arm) -> float | None:
    """Return the median step time in seconds of a single process with a rank's batch; None if it fails."""
    try:
        training = Training(spec, arm)
        for _ in range(1 + spec.warmup):
            training.step()
        return statistics.median(training.round().samples["step"])
    except Exception:  # such as out of memory without sharding; the other figures remain valid
        return None


def measure_parity(training: Training, ranks: Ranks) -> float:
    """Return the distance between the ranks' weights and those of a single process with the same batches.

    It is relative to the length of the single process's update. Every rank must call this after the steps to compare.
    """
    weights = torch.cat([wrapping.gather_tensor(p).double().flatten() for _, p in training.named])
    distance = 0.0
    if ranks.rank == 0:
        reference = Training(training.spec, training.arm)
        assert reference.workload is not None
        initial = _flatten_weights(reference)
        rank_batches = [build_rank_workload(training.spec, rank).batches for rank in range(ranks.world_size)]
        reference.workload.batches = map(_concatenate, zip(*rank_batches, strict=True))
        for _ in training.losses:
            reference.step()
        final = _flatten_weights(reference)
        distance = float((weights - final).norm() / (final - initial).norm())
    ranks.broadcast(None)  # the other ranks wait
    return distance


def _flatten_weights(training: Training) -> Tensor:
    return torch.cat([p.detach().double().flatten() for _, p in training.named])


def _concatenate(batches: Sequence[Any]) -> Tensor | tuple[object, ...]:
    """Return the concatenation of the ranks' batches."""
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches))
    return tuple(map(_concatenate, zip(*batches, strict=True)))
