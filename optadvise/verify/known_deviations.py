"""What a deviation may be: the known mistakes as methods of their own, so that one that fits names what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor

from optadvise.verify.reference import METHODS, Hyperparameters, Method, Walk


def _adam(*, first: bool = True, second: bool = True, inside: bool = False, late: int = 0, decay: str = "") -> Method:
    """Return Adam's step with something else than it should be.

    Args:
        first: The first moment is corrected for its start.
        second: The second moment is.
        inside: eps stands inside the root.
        late: The correction counts so many steps less.
        decay: coupled, decoupled, unscaled (not times the rate), or none.
    """

    def method(theta: Tensor, h: Hyperparameters) -> Walk:
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


def _momentum(*, dampening: float = 0.0, ahead: bool = False, rate_inside: bool = False) -> Method:
    """Return momentum's step with something else than it should be."""

    def method(theta: Tensor, h: Hyperparameters) -> Walk:
        m = torch.zeros_like(theta)
        for t in count(1):
            g = (yield theta) + h.get("weight_decay", 0.0) * theta
            enters = (1 - dampening if t > 1 else 1.0) * (
                h["lr"] if rate_inside else 1.0
            )  # the first is whole, as torch's
            m = h["momentum"] * m + enters * g
            step = g + h["momentum"] * m if ahead else m
            theta = theta - (1.0 if rate_inside else h["lr"]) * step

    return method


def _changed(method: Method, **changes: Any) -> Method:
    """Return a method that takes other hyperparameters than it is given."""

    def other(theta: Tensor, h: Hyperparameters) -> Walk:
        mine = {**h, **{name: change(h) for name, change in changes.items()}}
        walk = method(theta, mine)
        theta = next(walk)
        while True:
            g = yield theta
            mine["lr"] = h["lr"]
            theta = walk.send(g)

    return other


def _coupled(method: Method) -> Method:
    """Return a method whose decay goes through the gradient."""
    plain = _changed(method, weight_decay=lambda h: 0.0)

    def other(theta: Tensor, h: Hyperparameters) -> Walk:
        walk = plain(theta, h)
        theta = next(walk)
        while True:
            theta = walk.send((yield theta) + h["weight_decay"] * theta)

    return other


Suspects = Iterator[tuple[str, Method]]


def _mistaken_adam(decay: str) -> Suspects:
    yield "corrects neither moment for its start", _adam(first=False, second=False, decay=decay)
    yield "does not correct the second moment for its start", _adam(second=False, decay=decay)
    yield "does not correct the first moment for its start", _adam(first=False, decay=decay)
    yield "has eps inside the root", _adam(inside=True, decay=decay)
    yield "counts steps from 0 in the correction", _adam(late=1, decay=decay)
    yield "counts a step too many in the correction", _adam(late=-1, decay=decay)
    yield "does not multiply the decay by the rate", _adam(decay="unscaled")
    yield "decouples the decay", _adam(decay="decoupled")


def _mistaken_momentum(decay: str) -> Suspects:
    yield "looks ahead, as Nesterov's does", _momentum(ahead=True)
    yield "does not look ahead: plain momentum", _momentum()
    yield "keeps the rate inside the velocity", _momentum(rate_inside=True)
    yield "dampens the gradient that enters the velocity", _momentum(dampening=0.9)


# The mistakes that are made of a method, given how its weights decay.
MISTAKES: Mapping[Method, Callable[[str], Suspects]] = {
    METHODS["adam"]: _mistaken_adam, METHODS["adamw"]: _mistaken_adam,
    METHODS["sgd-momentum"]: _mistaken_momentum, METHODS["sgd-nesterov"]: _mistaken_momentum,
}  # fmt: skip


def suspects(name: str, decay: str, ancestors: list[str]) -> Suspects:
    """Yield what an implementation may compute instead of its card's equation, in words and as a method.

    Args:
        name: The card's id.
        decay: How the card says that weights decay: decoupled, coupled or none.
        ancestors: The ids of the optimizers that it came from, the nearest first.
    """
    own = METHODS[name]
    yield "ignores the weight decay", _changed(own, weight_decay=lambda h: 0.0)
    yield "couples the decay: it goes through the gradient", _coupled(own)
    yield "swaps the betas", _changed(own, betas=lambda h: [*reversed(h["betas"])] if "betas" in h else None)
    if own in MISTAKES:
        yield from MISTAKES[own](decay)
    for other in dict.fromkeys((*ancestors, *METHODS)):
        if METHODS[other] is not own:
            yield f"computes {other}'s step", METHODS[other]


def matching(found: dict[str, list[Tensor]], follow: Any, candidates: Suspects, near: Any) -> str | None:
    """Return the words of the first suspect that fits in every scene, None where none does.

    Args:
        found: The path in each scene that is looked at.
        follow: The path of a method in a scene.
        candidates: Suspects.
        near: Whether two paths of a scene are the same.
    """
    for words, method in candidates:
        try:
            if all(near(scene, path, follow(method, scene)) for scene, path in found.items()):
                return words
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):  # it asks for what is not here
            continue
    return None
