"""Reference implementations: the published update of every optimizer in float64, without an optimizer library.

Each method is a generator that yields the parameter and receives its gradient, so it reads like the card's equation.
Quantized and paged optimizers use the reference of the optimizer whose state they compress.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor

from optadvise.core.cards import Value

Hyperparameters = dict[str, Any]  # values by the names of the card; betas is a list
Gradients = Callable[[Tensor, int], Tensor]
Trajectory = Generator[Tensor, Tensor, None]  # yields the parameter, receives its gradient
Method = Callable[[Tensor, Hyperparameters], Trajectory]

# Adafactor: eps2 of the paper, the smallest root mean square of a tensor, and the square root of eps1.
ADAFACTOR_SMALLEST_RMS, ADAFACTOR_EPS = 1e-3, 1e-15
# Muon: coefficients and number of Newton-Schulz iterations in Jordan's post.
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5


def sgd(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply SGD of Robbins and Monro 1951, with an L2 penalty."""
    while True:
        g = (yield theta) + h["weight_decay"] * theta
        theta = theta - h["lr"] * g


def sgd_momentum(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply momentum of Polyak 1964 in the form of Sutskever et al. 2013; the velocity excludes the learning rate."""
    m = torch.zeros_like(theta)
    while True:
        m = h["momentum"] * m + (yield theta) + h["weight_decay"] * theta
        theta = theta - h["lr"] * m


def sgd_nesterov(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply momentum of Nesterov 1983 in the form of Sutskever et al. 2013."""
    m = torch.zeros_like(theta)
    while True:
        g = (yield theta) + h["weight_decay"] * theta
        m = h["momentum"] * m + g
        theta = theta - h["lr"] * (g + h["momentum"] * m)


def adagrad(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Adagrad of Duchi, Hazan and Singer 2011, diagonal form."""
    v = torch.full_like(theta, h["initial_accumulator_value"])
    for t in count(1):
        g = (yield theta) + h["weight_decay"] * theta
        v = v + g**2
        theta = theta - h["lr"] / (1 + (t - 1) * h["lr_decay"]) * g / (v.sqrt() + h["eps"])


def adadelta(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Adadelta of Zeiler 2012, algorithm 1."""
    u = v = torch.zeros_like(theta)
    while True:
        g = (yield theta) + h["weight_decay"] * theta
        v = h["rho"] * v + (1 - h["rho"]) * g**2
        d = g * (u + h["eps"]).sqrt() / (v + h["eps"]).sqrt()
        u = h["rho"] * u + (1 - h["rho"]) * d**2
        theta = theta - h["lr"] * d


def rmsprop(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply RMSprop of Tieleman and Hinton 2012, lecture 6e, with eps outside the root."""
    v = torch.zeros_like(theta)
    while True:
        g = (yield theta) + h["weight_decay"] * theta
        v = h["alpha"] * v + (1 - h["alpha"]) * g**2
        theta = theta - h["lr"] * g / (v.sqrt() + h["eps"])


def adam(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Adam of Kingma and Ba 2014, algorithm 1, with an L2 penalty."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = (yield theta) + h["weight_decay"] * theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - h["lr"] * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + h["eps"])


def adamw(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply AdamW of Loshchilov and Hutter 2017, algorithm 2; weight decay is multiplied by the learning rate."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + h["eps"])
        theta = theta - h["lr"] * u - h["lr"] * h["weight_decay"] * theta


def nadam(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply NAdam of Dozat 2016, algorithm 2 with its momentum schedule; decoupled decay."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    product = 1.0
    for t in count(1):
        g = yield theta
        now, after = (b1 * (1 - 0.5 * 0.96 ** (s * h["momentum_decay"])) for s in (t, t + 1))
        product *= now
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = after * m / (1 - product * after) + (1 - now) * g / (1 - product)
        u = u / ((v / (1 - b2**t)).sqrt() + h["eps"])
        theta = theta - h["lr"] * u - h["lr"] * h["weight_decay"] * theta


def _rectified(m: Tensor, v: Tensor, t: int, h: Hyperparameters) -> Tensor:
    """Return RAdam's update from the moments after step t."""
    b1, b2 = h["betas"]
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    m = m / (1 - b1**t)
    if length <= 5:  # the variance of v is not defined yet; the paper has 4, the authors' code 5
        return m
    r = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return r * m / ((v / (1 - b2**t)).sqrt() + h["eps"])


def radam(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply RAdam of Liu et al. 2019, algorithm 2; decoupled decay."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - h["lr"] * _rectified(m, v, t, h) - h["lr"] * h["weight_decay"] * theta


def ranger(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Ranger of Wright 2019: RAdam with Lookahead (Zhang et al. 2019); slow weights start at the initial ones."""
    slow = theta
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - h["lr"] * _rectified(m, v, t, h) - h["lr"] * h["weight_decay"] * theta
        if t % h["k"] == 0:
            theta = slow = slow + h["alpha"] * (theta - slow)


def adan(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Adan of Xie et al. 2022, algorithm 1, with betas as in its code; the first difference is zero."""
    b1, b2, b3 = h["betas"]
    m = d = v = torch.zeros_like(theta)
    last = None
    for t in count(1):
        g = yield theta
        difference = torch.zeros_like(g) if last is None else g - last
        last = g
        m, d = b1 * m + (1 - b1) * g, b2 * d + (1 - b2) * difference
        v = b3 * v + (1 - b3) * (g + b2 * difference) ** 2
        u = (m / (1 - b1**t) + b2 * d / (1 - b2**t)) / ((v / (1 - b3**t)).sqrt() + h["eps"])
        theta = (theta - h["lr"] * u) / (1 + h["lr"] * h["weight_decay"])


def ademamix(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply AdEMAMix of Pagliardini, Ablin and Grangier 2024, algorithm 1 with constant alpha and beta3."""
    b1, b2, b3 = h["betas"]
    m1 = m2 = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m1, m2, v = b1 * m1 + (1 - b1) * g, b3 * m2 + (1 - b3) * g, b2 * v + (1 - b2) * g**2
        u = (m1 / (1 - b1**t) + h["alpha"] * m2) / ((v / (1 - b2**t)).sqrt() + h["eps"])
        theta = theta - h["lr"] * u - h["lr"] * h["weight_decay"] * theta


def stable_adamw(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply StableAdamW of Wortsman et al. 2023, algorithm 2: AdamW with Adafactor's update clipping at 1."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        d1, d2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (b1, b2))
        m, v = d1 * m + (1 - d1) * g, d2 * v + (1 - d2) * g**2
        excess = (g**2 / v.clamp(min=h["eps"] ** 2)).mean().sqrt()
        rate = h["lr"] / max(1.0, float(excess))
        theta = theta - rate * h["weight_decay"] * theta - rate * m / (v.sqrt() + h["eps"])


def adafactor(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Adafactor of Shazeer and Stern 2018, algorithms 4 and 5, without momentum."""
    r = theta.new_zeros(theta.shape[:-1])
    c = theta.new_zeros(theta.shape[-1:])
    full = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        b = 1 - t ** h["beta2_decay"]
        if theta.ndim > 1:
            r, c = b * r + (1 - b) * (g**2).mean(-1), b * c + (1 - b) * (g**2).mean(-2)
            v = r.unsqueeze(-1) * c.unsqueeze(-2) / r.mean(-1, keepdim=True).unsqueeze(-1)
        else:
            v = full = b * full + (1 - b) * g**2
        u = g / v.sqrt().clamp(min=ADAFACTOR_EPS)
        u = u / max(1.0, float(_rms(u)) / h["d"])
        size = max(ADAFACTOR_SMALLEST_RMS, float(_rms(theta)))
        theta = theta - min(h["lr"], t**-0.5) * size * u - h["lr"] * h["weight_decay"] * theta


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def lamb(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply LAMB of You et al. 2019, algorithm 2, without bounds on the trust ratio."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        r = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + h["eps"]) + h["weight_decay"] * theta
        r_norm, theta_norm = float(r.norm()), float(theta.norm())
        theta = theta - h["lr"] * (theta_norm / r_norm if theta_norm and r_norm else 1.0) * r


def lars(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply LARS of You, Gitman and Ginsburg 2017, algorithm 1; the trust ratio is 1 if a norm is 0."""
    m = torch.zeros_like(theta)
    while True:
        g = yield theta
        g_norm, theta_norm = float(g.norm()), float(theta.norm())
        norms = g_norm + h["weight_decay"] * theta_norm
        q = h["trust_coefficient"] * theta_norm / norms if theta_norm and g_norm else 1.0
        m = h["momentum"] * m + h["lr"] * q * (g + h["weight_decay"] * theta)
        theta = theta - m


def lion(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Lion of Chen et al. 2023, algorithm 2."""
    b1, b2 = h["betas"]
    m = torch.zeros_like(theta)
    while True:
        g = yield theta
        theta = theta - h["lr"] * (b1 * m + (1 - b1) * g).sign() - h["lr"] * h["weight_decay"] * theta
        m = b2 * m + (1 - b2) * g


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


def prodigy(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Prodigy of Mishchenko and Defazio 2023, algorithm 4, with the authors' options; use the previous d."""
    b1, b2 = h["betas"]
    b3 = math.sqrt(b2)
    start, d, r = theta, h["d0"], 0.0
    m = v = s = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        correction = math.sqrt(1 - b2**t) / (1 - b1**t) if h["use_bias_correction"] else 1.0
        rate = h["lr"] * correction
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g**2
        r = b3 * r + d**2 * rate * float((g * (start - theta)).sum())
        s = b3 * s + d**2 * (1.0 if h["safeguard_warmup"] else rate) * g
        before, d = d, max(d, h["d_coef"] * r / float(s.abs().sum()))
        theta = theta - rate * before * (m / (v.sqrt() + d * h["eps"]) + h["weight_decay"] * theta)


def schedule_free_adamw(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply schedule-free AdamW of Defazio et al. 2024, algorithm 1, with a constant learning rate; yield y."""
    b1, b2 = h["betas"]
    x = z = theta
    v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        v = b2 * v + (1 - b2) * g**2
        z = z - h["lr"] * (g / ((v / (1 - b2**t)).sqrt() + h["eps"]) + h["weight_decay"] * theta)
        x = (1 - 1 / t) * x + z / t
        theta = (1 - b1) * z + b1 * x


def run_method(
    method: Method, start: Tensor, gradients: Gradients, steps: int, hyperparameters: Mapping[str, Value],
    lr: Callable[[int], float] | None = None,
) -> list[Tensor]:  # fmt: skip
    """Run a method and return the parameter after each step, in float64.

    Args:
        gradients: Function of parameter and step (from 1) that returns the gradient.
        hyperparameters: Values by the names of the card.
        lr: Function that returns the learning rate at a step; None if it is constant.
    """
    values = dict(hyperparameters)
    trajectory = method(start.double(), values)
    theta, path = next(trajectory), []
    for step in range(1, steps + 1):
        if lr is not None:
            values["lr"] = lr(step)
        theta = trajectory.send(gradients(theta, step))
        path.append(theta)
    return path


# By card id.
METHODS: dict[str, Method] = {
    **{
        method.__name__.replace("_", "-"): method
        for method in (
            adadelta, adafactor, adagrad, adam, adamw, adan, ademamix, lamb, lars, lion, muon, nadam, prodigy, radam,
            ranger, rmsprop, schedule_free_adamw, sgd, sgd_momentum, sgd_nesterov, soap, stable_adamw,
        )
    },
    **dict.fromkeys(("adamw4bit", "adamw8bit", "paged-adamw32bit", "paged-adamw8bit"), adamw),
    "lion8bit": lion,
}  # fmt: skip
