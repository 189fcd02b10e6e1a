"""Overhead of an optimizer step: its time without data."""

from __future__ import annotations

import statistics

import torch

from optadvise.benchmark import optimizer_builder
from optadvise.benchmark.clock import Clock
from optadvise.benchmark.plan import COMPILED
from optadvise.benchmark.training_loop import Training

_WARMUP, _STEPS = 3, 10


def measure_overhead_seconds(training: Training) -> float | None:
    """Return the median seconds of the optimizer steps on as many tensors of one element each.

    This is the time that launches and Python take, whatever the size of the network. It is not measured for compiled
    steps, which would be compiled again.
    """
    if training.arm.variant == COMPILED:
        return None
    named = []
    for name, parameter in training.named:
        tensor = torch.nn.Parameter(torch.ones([1] * parameter.ndim, device=parameter.device, dtype=parameter.dtype))
        tensor.grad = torch.ones_like(tensor)
        named.append((name, tensor))
    optimizers = optimizer_builder.build_optimizers(training.arm, named)
    clock, seconds = Clock(training.spec.device), []
    for _ in range(_WARMUP + _STEPS):
        clock.start()
        for optimizer in optimizers:
            optimizer.step()
        clock.mark()
        seconds.append(clock.seconds()[0])
    return statistics.median(seconds[_WARMUP:])
