"""Scenarios that an implementation is stepped in: shapes, starts, decays, learning rates, dtypes; with fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from msgspec import Struct
from torch import Tensor


class Scenario(Struct, frozen=True):
    """Shape and start of the weights, and how they are stepped."""

    name: str
    description: str
    shape: tuple[int, ...]
    spread: float  # standard deviation of the start
    weight_decay: float = 0.0
    dtype: str = "float32"
    halves_lr: bool = False  # at the sixth step
    has_even_gradients: bool = False  # the same gradient for every element


# From 4096 elements on bitsandbytes quantises: not 1000, nor 1152. LAMB and LARS use a tensor's norm: it is 3.2 in the
# first scenario, 25.6 in the second and 0 in the zero start. A tall matrix distinguishes rows from columns. If all
# elements of a block are equal, quantisation loses nothing, and the method itself shows.
SCENARIOS = (
    Scenario("plain", "a matrix", (64, 64), 0.05),
    Scenario("decay", "a long matrix under weight decay", (64, 64), 0.4, 0.5),
    Scenario("zero", "a start at zero", (64, 64), 0.0),
    Scenario("tall", "a tall matrix", (128, 32), 0.05, 0.5),
    Scenario("vector", "a vector", (1000,), 0.05, 0.5),
    Scenario("scalar", "a scalar", (), 0.5),
    Scenario("filter", "convolution filters", (16, 8, 3, 3), 0.05, 0.5),
    Scenario("falling", "a learning rate that changes", (64, 64), 0.05, halves_lr=True),
    Scenario("half", "bf16 weights", (64, 64), 0.0, dtype="bfloat16"),  # from zero, where rounding costs the least
    Scenario("even", "gradients that lose nothing to quantisation", (64, 64), 0.4, 0.5, has_even_gradients=True),
)
COMPARED_STEPS = (1, 5, 12)  # the twelfth is after Lookahead's pull and SOAP's refresh


def make_start(scenario: Scenario) -> Tensor:
    """Return the weights before the first step, in fp32."""
    weights = scenario.spread * torch.randn(scenario.shape, generator=torch.Generator().manual_seed(0))
    return weights.to(getattr(torch, scenario.dtype)).float()


def compute_gradient(scenario: Scenario, theta: Tensor, step: int) -> Tensor:
    """Return the gradient of a noisy quadratic with one spike, which triggers every kind of clipping.

    Args:
        theta: The weights, in float64.
        step: The step, from 1.
    """
    spike = 4.0 if step == 4 else 1.0
    if scenario.has_even_gradients:
        return torch.full_like(theta, 0.1 * spike * (1 + 0.1 * step))
    fixed, fresh = (torch.Generator().manual_seed(seed) for seed in (1, 1000 + step))
    target = 0.1 * torch.randn(scenario.shape, generator=fixed, dtype=torch.float64)
    curvature = 0.5 + 1.5 * torch.rand(scenario.shape, generator=fixed, dtype=torch.float64)
    noise = 0.05 * torch.randn(scenario.shape, generator=fresh, dtype=torch.float64)
    gradient = spike * (curvature * (theta - target) + noise)
    return gradient.to(getattr(torch, scenario.dtype)).double()  # rounded as the implementation gets it


def choose_lr(scenario: Scenario, lr: float, step: int) -> float:
    """Return the learning rate at a step, from 1."""
    return lr / 2 if scenario.halves_lr and step >= 6 else lr


def measure_deviation(path: Sequence[Tensor], reference: Sequence[Tensor], start: Tensor, step: int) -> float:
    """Return the distance of a path from the reference after a step, as a share of the way that the reference went.

    Args:
        path: Weights after each step.
        reference: Weights of the reference after each step.
        start: Weights before the first step.
        step: The step, from 1.
    """
    way = float((reference[step - 1] - start).norm())
    distance = float((path[step - 1] - reference[step - 1]).norm())
    if not math.isfinite(distance):
        return math.inf
    return distance / way if way else (0.0 if distance == 0 else math.inf)


def estimate_rounding(scenario: Scenario, reference: Sequence[Tensor], start: Tensor, step: int) -> float:
    """Return the deviation that rounding of weights alone may cause: four times what independent roundings add to."""
    unit = 2.0**-24 if scenario.dtype == "float32" else 2.0**-9
    way = float((reference[step - 1] - start).norm()) or 1.0
    length = max(float(start.norm()), float(reference[step - 1].norm()))
    return min(0.05, 4 * unit * math.sqrt(step) * length / way)
