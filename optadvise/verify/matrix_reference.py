"""Reference implementations of the optimizers that treat a weight as a matrix, in float64."""

from __future__ import annotations

import math
from itertools import count

import torch
from torch import Tensor

from optadvise.verify.reference_types import Hyperparameters, Trajectory

# Muon: coefficients and number of Newton-Schulz iterations in Jordan's post.
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5


def muon(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Muon of Jordan et al. 2024, scaled to AdamW's root mean square (Liu et al. 2025)."""
    m = torch.zeros_like(theta)
    scale = 0.2 * math.sqrt(max(theta.shape))
    while True:
        g = yield theta
        m = h["momentum"] * m + (1 - h["momentum"]) * g
        u = _orthogonalize(h["momentum"] * m + (1 - h["momentum"]) * g)
        theta = theta - h["lr"] * scale * u - h["lr"] * h["weight_decay"] * theta


def _orthogonalize(x: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrix by Newton-Schulz iterations on the shorter side."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / x.norm()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def soap(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply SOAP of Vyas et al. 2024, algorithm 3, with the order of operations of the authors' code.

    The first gradient only initializes the preconditioners, later gradients are added after their step, weight decay
    comes last, and an update of a basis sorts it by estimated eigenvalues. Tensors other than matrices use Adam.
    """
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    first = yield theta
    sides = [(1 - b2) * first @ first.T, (1 - b2) * first.T @ first] if theta.ndim == 2 else []
    bases = [torch.linalg.eigh(side).eigenvectors.flip(1) for side in sides]
    for t in count(1):
        g = yield theta
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * _rotate(g, bases) ** 2
        u = _rotate(_rotate(m / (1 - b1**t), bases) / ((v / (1 - b2**t)).sqrt() + h["eps"]), [q.T for q in bases])
        theta = (theta - h["lr"] * u) * (1 - h["lr"] * h["weight_decay"])
        if bases:
            sides = [b2 * sides[0] + (1 - b2) * g @ g.T, b2 * sides[1] + (1 - b2) * g.T @ g]
        if t % h["precondition_frequency"] == 0:
            for axis, (side, basis) in enumerate(zip(sides, bases, strict=True)):
                order = (basis * (side @ basis)).sum(0).argsort(descending=True)
                v = v.index_select(axis, order)
                bases[axis] = torch.linalg.qr((side @ basis)[:, order]).Q


def _rotate(x: Tensor, bases: list[Tensor]) -> Tensor:
    """Rotate a matrix into the bases of its rows and columns."""
    return bases[0].T @ x @ bases[1] if bases else x


def galore_adamw(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply GaLore-AdamW of Zhao et al. 2024, algorithm 2, with the order of operations of the authors' code.

    AdamW runs on the gradient in the space of its largest singular vectors along the shorter side.
    """
    b1, b2 = h["betas"]
    m = v = torch.zeros(())
    projection = theta
    is_tall = theta.shape[0] >= theta.shape[1]
    for t in count(1):
        g = yield theta
        if (t - 1) % h["update_proj_gap"] == 0:
            left, _, right = torch.linalg.svd(g, full_matrices=False)
            projection = right[: h["rank"]] if is_tall else left[:, : h["rank"]]
        r = g @ projection.T if is_tall else projection.T @ g
        m, v = b1 * m + (1 - b1) * r, b2 * v + (1 - b2) * r**2
        u = (m / (1 - b1**t)) / (v.sqrt() + h["eps"]) * math.sqrt(1 - b2**t)
        update = h["scale"] * (u @ projection if is_tall else projection @ u)
        theta = (theta - h["lr"] * update) * (1 - h["lr"] * h["weight_decay"])
