"""Installed optimizers on surfaces of two weights: the path that each takes."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from optadvise.benchmark import optimizer_builder, plan
from optadvise.benchmark.spec import Arm
from optadvise.core.errors import OptadviseError, RuleFileError, nearest
from optadvise.core.records import Optimizer, Surface

Point = tuple[float, float, float]  # x, y and the value there


class Walk(Struct, frozen=True):
    """The path of one optimizer."""

    optimizer: str
    name: str
    path: str  # import path of the class that walked
    kwargs: Mapping[str, Any]
    lr: float
    because: str  # why this rate
    cite: tuple[str, ...]
    points: tuple[Point, ...]
    end: str  # steps: took them all; outside: left what is drawn; not-finite: diverged
    reached: int | None  # the first step at the surface's goal


class LeftOut(Struct, frozen=True):
    """An optimizer that cannot walk here."""

    optimizer: str
    because: str


def _saddle(x: Tensor, y: Tensor) -> Tensor:
    return x**2 - y**2


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _rastrigin(x: Tensor, y: Tensor) -> Tensor:
    return 20 + x**2 - 10 * torch.cos(2 * math.pi * x) + y**2 - 10 * torch.cos(2 * math.pi * y)


FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "saddle": _saddle,
    "rosenbrock": _rosenbrock,
    "beale": _beale,
    "rastrigin": _rastrigin,
}


def function_of(surface: Surface) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a surface's function.

    Raises:
        RuleFileError: There is none of its id.
    """
    if surface.id not in FUNCTIONS:
        raise RuleFileError(f"no function is called {surface.id!r}; {nearest(surface.id, FUNCTIONS)}", surface.at)
    return FUNCTIONS[surface.id]


def rate(surface: Surface, card: Optimizer) -> tuple[float, str, tuple[str, ...]]:
    """Return the learning rate of an optimizer on a surface, why, and what that rests on.

    Args:
        surface: Whose rates count.
        card: The optimizer's card.
    """
    own = surface.optimizers.get(card.id)
    entry = own or surface.rates[card.rates]
    default = card.hyperparameter("lr")
    usual = default.default if default is not None and isinstance(default.default, (int, float)) else 1.0
    lr, because, cite = entry["lr"] if "lr" in entry else entry["times"] * usual, entry["because"], entry["cite"]
    family = None if own else surface.families.get(card.family)
    if family is not None:
        lr, because, cite = lr * family["factor"], f"{because}; {family['because']}", [*cite, *family["cite"]]
    return float(f"{lr:.6g}"), because, tuple(dict.fromkeys(cite))


def walk(
    surface: Surface, cards: Iterable[Optimizer], steps: int, lr: float | None = None
) -> tuple[list[Walk], list[LeftOut]]:
    """Return the paths of some optimizers, and those that cannot walk with the reason.

    Without weight decay, so that nothing pulls the two weights but the surface.

    Args:
        surface: Where they walk.
        cards: The optimizers' cards.
        steps: How many steps each takes.
        lr: One rate for all instead of the surface's.

    Raises:
        RuleFileError: The surface has no function.
    """
    function_of(surface)
    walks: list[Walk] = []
    out: list[LeftOut] = []
    for card in cards:
        number, because, cite = rate(surface, card) if lr is None else (lr, "as said by --lr", ())
        decay = {"weight_decay": 0.0} if card.hyperparameter("weight_decay") is not None else {}
        arm = plan.plan_defaults(card, {"lr": number, **decay})
        reason = arm.unsupported
        if reason is None and arm.matrices_only:
            reason = f"{arm.path} is for matrices, and the two weights here are a vector"
        if reason is None:
            try:
                points, end = path(arm, surface, steps)
            except OptadviseError as error:
                reason = str(error)
            except Exception as error:  # whatever an optimizer of somebody else's does
                reason = f"{arm.path} cannot step two weights ({type(error).__name__}: {str(error)[:100]})"
        if reason is not None:
            out.append(LeftOut(card.id, " ".join(reason.split())))
            continue
        reached = next((n for n, point in enumerate(points) if point[2] <= surface.goal["at_most"]), None)
        walks.append(Walk(card.id, card.name, arm.path, arm.kwargs, number, because, cite, points, end, reached))
    return walks, out


def path(arm: Arm, surface: Surface, steps: int) -> tuple[tuple[Point, ...], str]:
    """Return the points of one optimizer's path from the start on, and how it ended.

    Args:
        arm: The optimizer.
        surface: Where it walks.
        steps: How many steps it takes, unless it leaves before.
    """
    function = function_of(surface)
    # What libraries print when they are imported or stepped belongs to no answer.
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        weights = torch.nn.Parameter(torch.tensor(surface.start, dtype=torch.float32))
        built = optimizer_builder.build_optimizers(arm, [("weights", weights)])
        for optimizer in built:
            if arm.train_mode:
                optimizer.train()
        points = [_point(weights, function)]
        for _ in range(steps):
            loss = function(weights[0], weights[1])
            loss.backward()
            for optimizer in built:
                optimizer.step()
                optimizer.zero_grad()
            point = _point(weights, function)
            if not all(map(math.isfinite, point)):
                return tuple(points), "not-finite"
            points.append(point)
            if outside(point, surface):
                return tuple(points), "outside"
    return tuple(points), "steps"


def _point(weights: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Point:
    with torch.no_grad():
        x, y = weights.detach().double()
        return float(x), float(y), float(function(x, y))


def outside(point: Sequence[float], surface: Surface) -> bool:
    """Does a point lie outside of what is drawn of a surface?"""
    return not all(low <= value <= high for value, (low, high) in zip(point, (surface.x, surface.y), strict=False))


def clipped(walk: Walk, surface: Surface) -> tuple[Point, ...]:
    """Return a path whose last step is cut where it leaves what is drawn.

    Args:
        walk: The path.
        surface: Where it went.
    """
    if walk.end != "outside":
        return walk.points
    (x0, y0, _), (x1, y1, _) = walk.points[-2:]
    share = 1.0
    for before, last, (low, high) in ((x0, x1, surface.x), (y0, y1, surface.y)):
        if not low <= last <= high:
            share = min(share, ((low if last < low else high) - before) / (last - before))
    x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
    there = function_of(surface)(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))
    return (*walk.points[:-1], (x, y, float(there)))


class Grid(Struct, frozen=True):
    """A surface on a square grid, as arrays."""

    x: Any
    y: Any
    values: Any
    logarithms: Any  # of the values and one


def grid(surface: Surface, count: int) -> Grid:
    """Return a surface on a grid.

    Args:
        surface: Which.
        count: Points on each side.
    """
    xs, ys = (torch.linspace(low, high, count, dtype=torch.float64) for low, high in (surface.x, surface.y))
    x, y = torch.meshgrid(xs, ys, indexing="xy")
    values = function_of(surface)(x, y)
    return Grid(x.numpy(), y.numpy(), values.numpy(), torch.log10(1 + values.clamp(min=0)).numpy())
