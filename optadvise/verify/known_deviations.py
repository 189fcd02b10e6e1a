"""Known deviations from a paper's equation, as methods of their own: one that matches names what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count

import torch
from msgspec import Struct
from torch import Tensor

from optadvise.verify.reference import METHODS, Hyperparameters, Method, Trajectory


class KnownDeviation(Struct, frozen=True):
    """A method that an implementation may compute instead of its card's equation."""

    description: str
    method: Method


KnownDeviations = Iterator[KnownDeviation]


def _adam(*, first: bool = True, second: bool = True, inside: bool = False, late: int = 0, decay: str = "") -> Method:
    """Return Adam's step with a deviation.

    Args:
        first: Correct the first moment's bias.
        second: Correct the second moment's bias.
        inside: Put eps inside the root.
        late: Subtract this from the step that the correction uses.
        decay: coupled, decoupled, unscaled (not multiplied by the learning rate), or none.
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
    """Return momentum's step with a deviation.

    Args:
        dampening: Share of every gradient but the first that is kept out of the velocity, as torch's dampening.
        ahead: Look ahead, as Nesterov's.
        lr_inside: Multiply the gradient, and not the velocity, by the learning rate.
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
    """Return a method with other values of some hyperparameters, computed from all.

    Args:
        couples_decay: Add the weight decay to the gradient.
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
    yield KnownDeviation("corrects neither moment for its start", _adam(first=False, second=False, decay=decay))
    yield KnownDeviation("does not correct the second moment for its start", _adam(second=False, decay=decay))
    yield KnownDeviation("does not correct the first moment for its start", _adam(first=False, decay=decay))
    yield KnownDeviation("has eps inside the root", _adam(inside=True, decay=decay))
    yield KnownDeviation("counts steps from 0 in the correction", _adam(late=1, decay=decay))
    yield KnownDeviation("counts a step too many in the correction", _adam(late=-1, decay=decay))
    yield KnownDeviation("does not multiply the decay by the rate", _adam(decay="unscaled"))
    yield KnownDeviation("decouples the decay", _adam(decay="decoupled"))


def _list_momentum_deviations(decay: str) -> KnownDeviations:
    yield KnownDeviation("looks ahead, as Nesterov's does", _momentum(ahead=True))
    yield KnownDeviation("does not look ahead: plain momentum", _momentum())
    yield KnownDeviation("keeps the rate inside the velocity", _momentum(lr_inside=True))
    yield KnownDeviation("dampens the gradient that enters the velocity", _momentum(dampening=0.9))


# Deviations from one method, by how its weights decay.
_BY_METHOD: Mapping[Method, Callable[[str], KnownDeviations]] = {
    METHODS["adam"]: _list_adam_deviations, METHODS["adamw"]: _list_adam_deviations,
    METHODS["sgd-momentum"]: _list_momentum_deviations, METHODS["sgd-nesterov"]: _list_momentum_deviations,
}  # fmt: skip


def list_known_deviations(optimizer: str, decay: str, ancestors: Sequence[str]) -> KnownDeviations:
    """Yield what an implementation may compute instead of its card's equation.

    Args:
        decay: How weights decay by the card: decoupled, coupled or none.
        ancestors: Ids of the optimizers that it came from, the nearest first.
    """
    method = METHODS[optimizer]
    yield KnownDeviation("ignores the weight decay", _with_changes(method, weight_decay=lambda h: 0.0))
    coupled = _with_changes(method, couples_decay=True, weight_decay=lambda h: 0.0)
    yield KnownDeviation("couples the decay: it goes through the gradient", coupled)
    yield KnownDeviation("swaps the betas", _with_changes(method, betas=_swap_betas))
    if method in _BY_METHOD:
        yield from _BY_METHOD[method](decay)
    for other in dict.fromkeys((*ancestors, *METHODS)):
        if METHODS[other] is not method:
            yield KnownDeviation(f"computes {other}'s step", METHODS[other])


def _swap_betas(h: Hyperparameters) -> list[float] | None:
    return [*reversed(h["betas"])] if "betas" in h else None


def find_match(
    scenarios: Sequence[str], candidates: Iterable[KnownDeviation], matches: Callable[[str, Method], bool]
) -> str | None:
    """Return the description of the first deviation that matches in every scenario, None if none does.

    Args:
        candidates: Deviations, the likeliest first.
    """
    for candidate in candidates:
        try:
            if all(matches(scenario, candidate.method) for scenario in scenarios):
                return candidate.description
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):  # it lacks a hyperparameter
            continue
    return None
