"""Common deviations from published updates; a match identifies the error of an implementation. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count

import torch
from msgspec import Struct
from torch import Tensor

from optadvise.verify.reference import METHODS
from optadvise.verify.reference_types import Hyperparameters, Method, Trajectory


class KnownDeviation(Struct, frozen=True):
    """Update that an implementation may compute instead of its card's equation."""

    description: str
    method: Method


KnownDeviations = Iterator[KnownDeviation]


def _adam(*, first: bool = True, second: bool = True, inside: bool = False, late: int = 0, decay: str = "") -> Method:
    """Return Adam's update with a deviation.

    Args:
        first: Correct the first moment's bias.
        second: Correct the second moment's bias.
        inside: Put eps inside the root.
        late: Number that is subtracted from the step in the bias correction.
        decay: coupled, decoupled, unscaled (not multiplied by the learning rate) or none.
    """

    def method(theta: Tensor, h: Hyperparameters) -> Trajectory:
        b1, b2 = h["betas"]
        m = v = torch.zeros_like(theta)
        for t in count(1):
            g = yield theta
            if decay == "coupled":
                g = g + h["weight_decay"] * theta
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            n = t - late
            m_hat = m / (1 - b1**n) if first and n > 0 else m
            v_hat = v / (1 - b2**n) if second and n > 0 else v
            u = m_hat / ((v_hat + h["eps"]).sqrt() if inside else v_hat.sqrt() + h["eps"])
            pull = {"decoupled": h["lr"], "unscaled": 1.0}.get(decay, 0.0) * h.get("weight_decay", 0.0)
            theta = theta - h["lr"] * u - pull * theta

    return method


def _momentum(*, dampening: float = 0.0, ahead: bool = False, lr_inside: bool = False) -> Method:
    """Return the update of SGD with momentum with a deviation.

    Args:
        dampening: Dampening of the gradient after the first step, as in torch.
        ahead: Use Nesterov momentum.
        lr_inside: Multiply the gradient, not the velocity, by the learning rate.
    """

    def method(theta: Tensor, h: Hyperparameters) -> Trajectory:
        m = torch.zeros_like(theta)
        for t in count(1):
            g = (yield theta) + h.get("weight_decay", 0.0) * theta
            factor = (1 - dampening if t > 1 else 1.0) * (h["lr"] if lr_inside else 1.0)
            m = h["momentum"] * m + factor * g
            step = g + h["momentum"] * m if ahead else m
            theta = theta - (1.0 if lr_inside else h["lr"]) * step

    return method


def _with_changes(
    method: Method, *, couples_decay: bool = False, **changes: Callable[[Hyperparameters], object]
) -> Method:
    """Return a method with changed hyperparameters.

    Args:
        couples_decay: Add the weight decay to the gradient.
        **changes: New values of hyperparameters, as functions of all hyperparameters.
    """

    def changed(theta: Tensor, h: Hyperparameters) -> Trajectory:
        values = {**h, **{name: change(h) for name, change in changes.items()}}
        trajectory = method(theta, values)
        theta = next(trajectory)
        while True:
            g = yield theta
            values["lr"] = h["lr"]
            theta = trajectory.send(g + h["weight_decay"] * theta if couples_decay else g)

    return changed


def _list_adam_deviations(decay: str) -> KnownDeviations:
    yield KnownDeviation("has no bias correction", _adam(first=False, second=False, decay=decay))
    yield KnownDeviation("has no bias correction of the second moment", _adam(second=False, decay=decay))
    yield KnownDeviation("has no bias correction of the first moment", _adam(first=False, decay=decay))
    yield KnownDeviation("adds eps inside the square root", _adam(inside=True, decay=decay))
    yield KnownDeviation("counts steps from 0 in the bias correction", _adam(late=1, decay=decay))
    yield KnownDeviation("counts one step too many in the bias correction", _adam(late=-1, decay=decay))
    yield KnownDeviation("does not multiply the weight decay by the learning rate", _adam(decay="unscaled"))
    yield KnownDeviation("applies decoupled instead of coupled weight decay", _adam(decay="decoupled"))


def _list_momentum_deviations(decay: str) -> KnownDeviations:
    yield KnownDeviation("computes Nesterov momentum", _momentum(ahead=True))
    yield KnownDeviation("computes plain instead of Nesterov momentum", _momentum())
    yield KnownDeviation(
        "multiplies the gradient instead of the velocity by the learning rate", _momentum(lr_inside=True)
    )
    yield KnownDeviation("dampens the gradient that enters the velocity", _momentum(dampening=0.9))


# Functions that list the deviations of a method, given its kind of weight decay.
_BY_METHOD: Mapping[Method, Callable[[str], KnownDeviations]] = {
    METHODS["adam"]: _list_adam_deviations, METHODS["adamw"]: _list_adam_deviations,
    METHODS["sgd-momentum"]: _list_momentum_deviations, METHODS["sgd-nesterov"]: _list_momentum_deviations,
}  # fmt: skip


def list_known_deviations(optimizer: str, decay: str, ancestors: Sequence[str]) -> KnownDeviations:
    """Yield known deviations of an optimizer, the likeliest first.

    Args:
        decay: Kind of weight decay on the card: decoupled, coupled or none.
        ancestors: Ids of the optimizers that it derives from, the closest first.
    """
    method = METHODS[optimizer]
    yield KnownDeviation("ignores the weight decay", _with_changes(method, weight_decay=lambda h: 0.0))
    coupled = _with_changes(method, couples_decay=True, weight_decay=lambda h: 0.0)
    yield KnownDeviation("applies coupled instead of decoupled weight decay", coupled)
    yield KnownDeviation("swaps the betas", _with_changes(method, betas=_swap_betas))
    if method in _BY_METHOD:
        yield from _BY_METHOD[method](decay)
    for other in dict.fromkeys((*ancestors, *METHODS)):
        if METHODS[other] is not method:
            yield KnownDeviation(f"computes {other}", METHODS[other])


def _swap_betas(h: Hyperparameters) -> list[float] | None:
    return [*reversed(h["betas"])] if "betas" in h else None


def find_match(
    scenarios: Sequence[str], candidates: Iterable[KnownDeviation], matches: Callable[[str, Method], bool]
) -> str | None:
    """Return the description of the first deviation that matches in all scenarios, None if none does.

    Args:
        candidates: Deviations, the likeliest first.
    """
    for candidate in candidates:
        try:
            if all(matches(scenario, candidate.method) for scenario in scenarios):
                return candidate.description
        except (
            ArithmeticError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ):  # the optimizer lacks a hyperparameter of the method
            continue
    return None
