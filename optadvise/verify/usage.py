"""An implementation used as trainings use it: groups, saving and loading, missing, broken and sparse gradients."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from msgspec import Struct

from optadvise.verify.builder import Maker, line, quiet
from optadvise.verify.target import RESUMED

STOP = 4  # steps before a run is saved, and after it is loaded


class Checked(Struct, frozen=True):
    """Whether something that trainings do works."""

    name: str
    verdict: str  # ok, fails or differs
    words: str


def checks(maker: Maker) -> list[Checked]:
    """Return what was found of groups, saving, missing and broken gradients."""
    named = [("parameter groups", _groups), (RESUMED, _goes_on), ("a missing gradient", _missing),
             ("zero_grad", _zeroed), ("a NaN gradient", _broken)]  # fmt: skip
    if maker.subject.sparse:
        named.append(("sparse gradients", _sparse))
    return [checked(name, maker, check) for name, check in named if name not in maker.subject.leaves_out]


def _weights(count: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(24, 32, generator=generator)) for _ in range(count)]


def _step(optimizer: Any, weights: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for weight in weights:
        weight.grad = 0.1 * weight.detach() + 0.05 * torch.randn(weight.shape, generator=generator)
    with quiet():
        optimizer.step()


def _groups(maker: Maker) -> str | None:
    lr = maker.subject.hyperparameters["lr"]
    weights = _weights(2)
    weights[1].data = weights[0].data.clone()
    begin = weights[0].detach().clone()
    optimizer = maker.build([{"params": [weights[0]]}, {"params": [weights[1]], "lr": lr / 10}])
    for _ in range(2):  # some begin to move with the second
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        with quiet():
            optimizer.step()
    ways = [float((weight.detach() - begin).norm()) for weight in weights]
    if not ways[0] or ways[1] > 0.9 * ways[0]:
        return "takes the first group's learning rate for all"
    return None


def saved(maker: Maker) -> bytes:
    """Return a run that stopped half way: its weights, its optimizer's state, and where it would have come to."""
    whole, half = _weights(1), _weights(1)
    first, second = maker.build(whole), maker.build(half)
    for step in range(STOP):
        _step(first, whole, step)
        _step(second, half, step)
    for step in range(STOP, 2 * STOP):
        _step(first, whole, step)
    file = io.BytesIO()
    torch.save({"weights": half[0].detach(), "state": second.state_dict(), "end": whole[0].detach()}, file)
    return file.getvalue()


def resumed(maker: Maker, run: bytes) -> str | None:
    """Return how a run that goes on differs from one that did not stop, None where it does not.

    Args:
        run: What `saved` returned, here or in another process.
    """
    told = torch.load(io.BytesIO(run), weights_only=False)
    weights = [torch.nn.Parameter(told["weights"])]
    optimizer = maker.build(weights)
    optimizer.load_state_dict(told["state"])
    for step in range(STOP, 2 * STOP):
        _step(optimizer, weights, step)
    off = float((told["end"] - weights[0].detach()).norm() / told["end"].norm())
    return f"goes on otherwise than if it had not stopped, by {off:.1e} of the weights" if off > 1e-6 else None


def _goes_on(maker: Maker) -> str | None:
    return resumed(maker, saved(maker))


def _missing(maker: Maker) -> str | None:
    weights = _weights(2)
    optimizer = maker.build(weights)
    before = weights[1].detach().clone()
    weights[0].grad = torch.ones_like(weights[0])
    with quiet():
        optimizer.step()
    return None if torch.equal(weights[1].detach(), before) else "moves a weight that has no gradient"


def _zeroed(maker: Maker) -> str | None:
    weights = _weights(1)
    optimizer = maker.build(weights)
    _step(optimizer, weights, 0)
    optimizer.zero_grad(set_to_none=True)
    return None if weights[0].grad is None else "keeps the gradients"


def _broken(maker: Maker) -> str | None:
    weights = _weights(2)
    optimizer = maker.build(weights)
    _step(optimizer, weights, 0)
    weights[0].grad = torch.full_like(weights[0], float("nan"))
    weights[1].grad = torch.ones_like(weights[1])
    with quiet():
        optimizer.step()
    spread = not bool(torch.isfinite(weights[1]).all())
    return "spreads to the weights whose gradient is sound" if spread else None


def _sparse(maker: Maker) -> str | None:
    dense, table = _weights(1)[0], torch.nn.Embedding(24, 32, sparse=True)
    table.weight.data = dense.data.clone()
    decay = {"weight_decay": 0.0} if "weight_decay" in maker.subject.hyperparameters else {}
    one, other = maker.build([dense], **decay), maker.build(table.parameters(), **decay)
    rows = torch.tensor([1, 5, 5])
    for step in range(3):
        table.weight.grad = None
        (table(rows) * (1 + step)).sum().backward()
        dense.grad = table.weight.grad.to_dense()
        with quiet():
            one.step()
            other.step()
    off = float((dense - table.weight).detach().norm() / dense.detach().norm())
    return f"steps otherwise than with dense ones, by {off:.1e} of the weights" if off > 1e-5 else None


def checked(name: str, maker: Maker, check: Callable[[Maker], str | None]) -> Checked:
    """Return what a check says of an implementation, an exception as a failure.

    Args:
        name: What is checked, in words.
        maker: The implementation.
        check: Returns what is wrong, None where nothing is.
    """
    try:
        wrong = check(maker)
    except Exception as error:  # whatever somebody else's code does
        return Checked(name, "fails", line(error))
    return Checked(name, "differs" if wrong else "ok", wrong or "works")
