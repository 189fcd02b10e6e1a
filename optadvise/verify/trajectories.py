"""Trajectories of installed optimizers on test functions of two weights. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from msgspec import Struct, convert
from torch import Tensor

from optadvise.benchmark import optimizer_builder, plan
from optadvise.benchmark.spec import Arm
from optadvise.core.cards import Optimizer
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InterruptedMeasurementError, OptadviseError, RuleFileError, suggest_name
from optadvise.core.surface_cards import Surface
from optadvise.verify.builder import silence_libraries
from optadvise.verify.trajectory_records import Point, SkippedOptimizer, SurfaceSummary, TrajectoriesResult, Trajectory

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

End: TypeAlias = Literal["steps", "outside", "not-finite"]  # see `Trajectory.end`
SurfaceFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class LearningRate(Struct, frozen=True):
    """Learning rate on a surface, with its reason and sources."""

    lr: float
    because: str
    cite: tuple[str, ...]


class Grid(Struct, frozen=True):
    """Values of a surface on a square grid."""

    x: NDArray[float64]
    y: NDArray[float64]
    values: NDArray[float64]
    logarithms: NDArray[float64]  # log10(1 + value)


# -- surfaces ---------------------------------------------------------------------------------------------------------


def _saddle(x: Tensor, y: Tensor) -> Tensor:
    return x**2 - y**2


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _rastrigin(x: Tensor, y: Tensor) -> Tensor:
    return 20 + x**2 - 10 * torch.cos(2 * math.pi * x) + y**2 - 10 * torch.cos(2 * math.pi * y)


FUNCTIONS: Mapping[str, SurfaceFunction] = {
    "saddle": _saddle, "rosenbrock": _rosenbrock, "beale": _beale, "rastrigin": _rastrigin,
}  # fmt: skip


def find_function(surface: Surface) -> SurfaceFunction:
    """Return the function of a surface.

    Raises:
        RuleFileError: The surface has no function.
    """
    if surface.id not in FUNCTIONS:
        message = f"surface {surface.id!r} has no function; {suggest_name(surface.id, FUNCTIONS)}"
        raise RuleFileError(message, surface.at, code=ErrorCode.UNKNOWN_REFERENCE)
    return FUNCTIONS[surface.id]


def sample_grid(surface: Surface, count: int) -> Grid:
    """Evaluate a surface on a grid of `count` × `count` points."""
    xs, ys = (torch.linspace(low, high, count, dtype=torch.float64) for low, high in (surface.x, surface.y))
    x, y = torch.meshgrid(xs, ys, indexing="xy")
    values = find_function(surface)(x, y)
    return Grid(
        x=x.numpy(), y=y.numpy(), values=values.numpy(), logarithms=torch.log10(1 + values.clamp(min=0)).numpy()
    )


# -- trajectories -----------------------------------------------------------------------------------------------------


def choose_lr(surface: Surface, card: Optimizer) -> LearningRate:
    """Return the learning rate of an optimizer on a surface: by its id, or by the scale of its learning rate."""
    special = surface.optimizers.get(card.id)
    rate = special or surface.learning_rates.by_scale(card.lr_scale)
    lr, because, cite = rate.lr, rate.because, rate.cite
    if lr is None:
        hyperparameter = card.hyperparameter("lr")
        default = 1.0 if hyperparameter is None else hyperparameter.default
        lr = (rate.times or 1.0) * (default if isinstance(default, (int, float)) else 1.0)
    family = None if special else surface.families.get(card.family)
    if family is not None:
        lr, cite = lr * family.factor, (*cite, *family.cite)
        because = f"{because}; ×{family.factor:g}, as {family.because}"
    return LearningRate(lr=float(f"{lr:.6g}"), because=because, cite=tuple(dict.fromkeys(cite)))


def compute_trajectories(
    surface: Surface, cards: Iterable[Optimizer], steps: int, lr: float | None = None
) -> TrajectoriesResult:
    """Compute trajectories on a surface, without weight decay.

    Args:
        lr: Learning rate of all optimizers; None for the learning rates of the surface.

    Raises:
        RuleFileError: The surface has no function.
        InterruptedMeasurementError: KeyboardInterrupt; the other optimizers are skipped in the result.
    """
    find_function(surface)
    parts: dict[str, Trajectory | SkippedOptimizer] = {}
    cards = tuple(cards)

    def make_result() -> TrajectoriesResult:
        return TrajectoriesResult(
            schema_version=1, kind="trajectories", surface=convert(surface, SurfaceSummary, from_attributes=True),
            steps=steps, trajectories=tuple(part for part in parts.values() if isinstance(part, Trajectory)),
            skipped=tuple(part for part in parts.values() if isinstance(part, SkippedOptimizer)),
        )  # fmt: skip

    try:
        for card in cards:
            rate = choose_lr(surface, card) if lr is None else LearningRate(lr=lr, because="set with --lr", cite=())
            parts[card.id] = _compute_trajectory(surface, card, steps, rate)
    except KeyboardInterrupt:
        for card in cards:
            parts.setdefault(card.id, SkippedOptimizer(optimizer=card.id, because="interrupted"))
        raise InterruptedMeasurementError(make_result()) from None
    return make_result()


def _compute_trajectory(
    surface: Surface, card: Optimizer, steps: int, rate: LearningRate
) -> Trajectory | SkippedOptimizer:
    decay = {"weight_decay": 0.0} if card.hyperparameter("weight_decay") is not None else {}
    arm = plan.plan_defaults(card, {"lr": rate.lr, **decay})
    reason = arm.unsupported
    if reason is None and arm.tensors == "matrix":
        reason = f"{arm.path} supports only matrices, and the two weights are a vector"
    if reason is None:
        try:
            points, end = compute_points(arm, surface, steps)
            return Trajectory(
                optimizer=card.id, name=card.name, path=arm.path, kwargs=arm.kwargs, lr=rate.lr, because=rate.because,
                cite=rate.cite, end=end, reached=find_goal_step(points, surface), points=points,
            )  # fmt: skip
        except OptadviseError as error:
            reason = str(error)
        except Exception as error:  # libraries raise errors of any type
            reason = f"{arm.path} cannot step two weights ({type(error).__name__}: {str(error)[:100]})"
    return SkippedOptimizer(optimizer=card.id, because=" ".join(reason.split()))


def compute_points(arm: Arm, surface: Surface, steps: int) -> tuple[tuple[Point, ...], End]:
    """Return the start and the point after each step, and why the trajectory ended."""
    function = find_function(surface)
    with silence_libraries():
        weights = torch.nn.Parameter(torch.tensor(surface.start, dtype=torch.float32))
        optimizers = optimizer_builder.build_optimizers(arm, [("weights", weights)])
        points = [_evaluate(function, weights)]
        for _ in range(steps):
            loss = function(weights[0], weights[1])
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            point = _evaluate(function, weights)
            if not all(map(math.isfinite, (point.x, point.y, point.value))):
                return tuple(points), "not-finite"
            points.append(point)
            if not _is_drawn(point, surface):
                return tuple(points), "outside"
    return tuple(points), "steps"


def _evaluate(function: SurfaceFunction, weights: Tensor) -> Point:
    with torch.no_grad():
        x, y = weights.detach().double()
        return Point(x=float(x), y=float(y), value=float(function(x, y)))


def _is_drawn(point: Point, surface: Surface) -> bool:
    """Return whether a point is within the plotted range of a surface."""
    (x_low, x_high), (y_low, y_high) = surface.x, surface.y
    return x_low <= point.x <= x_high and y_low <= point.y <= y_high


def find_goal_step(points: Sequence[Point], surface: Surface) -> int | None:
    """Return the first step at which the goal is reached, None if it is not reached."""
    goal = surface.goal.at_most
    return next((step for step, point in enumerate(points) if point.value <= goal), None)


def clip_points(trajectory: Trajectory, surface: SurfaceSummary) -> tuple[Point, ...]:
    """Return the points of a trajectory; a last step that leaves the plotted range ends at the border."""
    if trajectory.end != "outside":
        return trajectory.points
    before, last = trajectory.points[-2:]
    fraction = 1.0
    for start, end, (low, high) in ((before.x, last.x, surface.x), (before.y, last.y, surface.y)):
        if not low <= end <= high:
            fraction = min(fraction, ((low if end < low else high) - start) / (end - start))
    x, y = before.x + fraction * (last.x - before.x), before.y + fraction * (last.y - before.y)
    value = FUNCTIONS[surface.id](torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))
    return (*trajectory.points[:-1], Point(x=x, y=y, value=float(value)))
