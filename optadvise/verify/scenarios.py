"""The situations that an implementation is stepped in: shapes, starts, decays, rates, dtypes. The seeds are fixed."""

from __future__ import annotations

import math

import torch
from msgspec import Struct
from torch import Tensor


class Scene(Struct, frozen=True):
    """Where the way starts, and under what it goes on."""

    name: str
    words: str
    shape: tuple[int, ...]
    spread: float  # standard deviation of the start
    weight_decay: float = 0.0
    dtype: str = "float32"
    falls: bool = False  # the learning rate halves at the sixth step
    even: bool = False  # the same gradient for every element


# From 4096 elements on bitsandbytes quantises: not 1000, nor 1152. LAMB and LARS look at a tensor's norm: it is 3.2 in
# the first scene, 25.6 in the second and 0 in the zero start. A tall matrix tells rows from columns. Where all elements
# of a block are equal they sit on the block's scale, so that nothing is lost and the method itself shows.
SCENES = (
    Scene("plain", "a matrix", (64, 64), 0.05),
    Scene("decay", "a long matrix under weight decay", (64, 64), 0.4, 0.5),
    Scene("zero", "a start at zero", (64, 64), 0.0),
    Scene("tall", "a tall matrix", (128, 32), 0.05, 0.5),
    Scene("vector", "a vector", (1000,), 0.05, 0.5),
    Scene("scalar", "a scalar", (), 0.5),
    Scene("filter", "convolution filters", (16, 8, 3, 3), 0.05, 0.5),
    Scene("falling", "a learning rate that changes", (64, 64), 0.05, falls=True),
    Scene("half", "bf16 weights", (64, 64), 0.0, dtype="bfloat16"),  # from zero, where rounding costs the least
    Scene("even", "gradients that lose nothing to quantisation", (64, 64), 0.4, 0.5, even=True),
)
STEPS = (1, 5, 12)  # after which the two are compared; the twelfth is past Lookahead's pull and SOAP's refresh


def start(scene: Scene) -> Tensor:
    """Return the weights before the first step, in fp32."""
    weights = scene.spread * torch.randn(scene.shape, generator=torch.Generator().manual_seed(0))
    return weights.to(getattr(torch, scene.dtype)).float()


def gradient(scene: Scene, theta: Tensor, step: int) -> Tensor:
    """Return the gradient of a noisy quadratic with one spike, which sets off every kind of clipping.

    Args:
        scene: Where.
        theta: The weights, in float64.
        step: Which step, from 1.
    """
    spike = 4.0 if step == 4 else 1.0
    if scene.even:
        return torch.full_like(theta, 0.1 * spike * (1 + 0.1 * step))
    fixed, fresh = (torch.Generator().manual_seed(seed) for seed in (1, 1000 + step))
    target = 0.1 * torch.randn(scene.shape, generator=fixed, dtype=torch.float64)
    curvature = 0.5 + 1.5 * torch.rand(scene.shape, generator=fixed, dtype=torch.float64)
    noise = 0.05 * torch.randn(scene.shape, generator=fresh, dtype=torch.float64)
    found = spike * (curvature * (theta - target) + noise)
    return found.to(getattr(torch, scene.dtype)).double()  # what an implementation is given


def rate(scene: Scene, lr: float, step: int) -> float:
    """Return the learning rate at a step, from 1."""
    return lr / 2 if scene.falls and step >= 6 else lr


def share(path: list[Tensor], wanted: list[Tensor], begin: Tensor, step: int) -> float:
    """Return how far a path is from the wanted one after a step, as a share of the way that the wanted one went."""
    way = float((wanted[step - 1] - begin).norm())
    off = float((path[step - 1] - wanted[step - 1]).norm())
    return math.inf if not math.isfinite(off) else off / way if way else (0.0 if off == 0 else math.inf)


def rounding(scene: Scene, wanted: list[Tensor], begin: Tensor, step: int) -> float:
    """Return the share that rounding of the weights alone may cost: four times what independent roundings add up to.

    Args:
        scene: Whose dtype rounds.
        wanted: The path in float64.
        begin: Its start.
        step: After which it is asked.
    """
    last = 2.0**-24 if scene.dtype == "float32" else 2.0**-9
    way = float((wanted[step - 1] - begin).norm()) or 1.0
    long = max(float(begin.norm()), float(wanted[step - 1].norm()))
    return min(0.05, 4 * last * math.sqrt(step) * long / way)
