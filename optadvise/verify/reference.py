"""Reference implementations: the published update of every optimizer in float64, without an optimizer library.

Each method is a generator that yields the parameter and receives its gradient, so it reads like the card's equation.
Quantized and paged optimizers use the reference of the optimizer whose state they compress.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import count

import torch
from torch import Tensor

from optadvise.core.cards import Value
from optadvise.verify.matrix_reference import galore_adamw, muon, soap
from optadvise.verify.reference_types import Hyperparameters, Method, Trajectory

Gradients = Callable[[Tensor, int], Tensor]

# Adafactor: eps2 of the paper, the smallest root mean square of a tensor, and the square root of eps1.
ADAFACTOR_SMALLEST_RMS, ADAFACTOR_EPS = 1e-3, 1e-15


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


def sparse_adam(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply Adam of Kingma and Ba 2014 in the order of operations of section 2, for elements with a gradient."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - h["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (v.sqrt() + h["eps"])


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


def nadamw(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply NAdamW of AlgoPerf (Dahl et al. 2023): AdamW with NAdam's update of Choi et al. 2019, table 1."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = ((b1 * m + (1 - b1) * g) / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + h["eps"])
        theta = theta - h["lr"] * u - h["lr"] * h["weight_decay"] * theta


def cautious_adamw(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply C-AdamW of Liang et al. 2024, algorithm 2, with its default ξ = 1."""
    b1, b2 = h["betas"]
    m = v = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + h["eps"])
        theta = theta - h["lr"] * _mask(u, g) - h["lr"] * h["weight_decay"] * theta


def cautious_lion(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply C-Lion of Liang et al. 2024: Lion with the mask of C-AdamW."""
    b1, b2 = h["betas"]
    m = torch.zeros_like(theta)
    while True:
        g = yield theta
        u = (b1 * m + (1 - b1) * g).sign()
        theta = theta - h["lr"] * _mask(u, g) - h["lr"] * h["weight_decay"] * theta
        m = b2 * m + (1 - b2) * g


def _mask(u: Tensor, g: Tensor) -> Tensor:
    """Keep the elements of an update whose sign agrees with the gradient, divided by their share."""
    agrees = (u * g > 0).to(u.dtype)
    return u * agrees * agrees.numel() / (agrees.sum() + 1)


def adopt(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply ADOPT of Taniguchi et al. 2024, algorithm 2 with clipping at t^(1/4); decoupled decay.

    The first gradient only initializes the second moment.
    """
    b1, b2 = h["betas"]
    m = torch.zeros_like(theta)
    v = (yield theta) ** 2
    for t in count(1):
        g = yield theta
        m = b1 * m + (1 - b1) * (g / v.sqrt().clamp(min=h["eps"])).clamp(-(t**0.25), t**0.25)
        theta = theta - h["lr"] * m - h["lr"] * h["weight_decay"] * theta
        v = b2 * v + (1 - b2) * g**2


def mars(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply MARS-AdamW of Yuan et al. 2024, algorithm 2, approximate; the first correction is relative to zero."""
    b1, b2 = h["betas"]
    m = v = last = torch.zeros_like(theta)
    for t in count(1):
        g = yield theta
        c = g + h["gamma"] * b1 / (1 - b1) * (g - last)
        c = c / max(1.0, float(c.norm()))
        last = g
        m, v = b1 * m + (1 - b1) * c, b2 * v + (1 - b2) * c**2
        u = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + h["eps"])
        theta = theta - h["lr"] * u - h["lr"] * h["weight_decay"] * theta


def rowwise_adagrad(theta: Tensor, h: Hyperparameters) -> Trajectory:
    """Apply row-wise Adagrad of Gupta et al. 2014 as in TorchRec: Adagrad with the mean of g² over each row."""
    v = torch.full_like(theta[..., :1], h["initial_accumulator_value"])
    for t in count(1):
        g = (yield theta) + h["weight_decay"] * theta
        v = v + (g**2).mean(-1, keepdim=True)
        theta = theta - h["lr"] / (1 + (t - 1) * h["lr_decay"]) * g / (v.sqrt() + h["eps"])


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
            adadelta, adafactor, adagrad, adam, adamw, adan, ademamix, adopt, cautious_adamw, cautious_lion,
            galore_adamw, lamb, lars, lion, mars, muon, nadam, nadamw, prodigy, radam, ranger, rmsprop, rowwise_adagrad,
            schedule_free_adamw, sparse_adam, sgd, sgd_momentum, sgd_nesterov, soap, stable_adamw,
        )
    },
    **dict.fromkeys(
        ("adamw-bf16", "adamw4bit", "adamw8bit", "paged-adamw32bit", "paged-adamw8bit", "torchao-adamw8bit"), adamw
    ),
    "lion8bit": lion,
}  # fmt: skip
