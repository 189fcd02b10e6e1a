"""Records of trajectories on a test function, and the JSON of `optadvise trajectories`. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from optadvise.core.cards import Value
from optadvise.core.surface_cards import SurfaceGoal

Pair = tuple[float, float]


class Point(Struct, frozen=True, array_like=True):
    """Two weights and the value of the function."""

    x: float
    y: float
    value: float


class GoalSummary(SurfaceGoal, frozen=True, kw_only=True):
    """Value of the function at which the goal is reached."""

    meaning: str = field(name="say")


class SurfaceSummary(Struct, frozen=True, kw_only=True):
    """Test function of two weights."""

    id: str
    name: str
    formula: str
    x: Annotated[Pair, Meta(description="Plotted range, low and high.")]
    y: Pair
    start: Pair
    minimum: Pair | None
    goal: GoalSummary
    cite: tuple[str, ...]


class Trajectory(Struct, frozen=True, kw_only=True):
    """Trajectory of one optimizer."""

    optimizer: str = field(name="id")
    name: str
    path: Annotated[str, Meta(description="Import path of the class.")] = field(name="import")
    kwargs: Mapping[str, Value]
    lr: float
    because: Annotated[str, Meta(description="Reason for the learning rate.")]
    cite: tuple[str, ...]
    end: Annotated[
        Literal["steps", "outside", "not-finite"],
        Meta(description="steps: completed all steps; outside: left the plotted range; not-finite: diverged"),
    ]
    reached: Annotated[int | None, Meta(description="First step at the goal; null if not reached.")]
    points: Annotated[tuple[Point, ...], Meta(description="Start, then the point after each step.")]


class SkippedOptimizer(Struct, frozen=True, kw_only=True):
    """Optimizer that cannot run on the function, with the reason."""

    optimizer: str = field(name="id")
    because: str


class TrajectoriesResult(Struct, frozen=True, kw_only=True):
    """Schema version 1. Keys may be added, never renamed."""

    schema_version: Literal[1]
    kind: Literal["trajectories"]
    surface: SurfaceSummary
    steps: int
    trajectories: tuple[Trajectory, ...] = field(name="walks")
    skipped: tuple[SkippedOptimizer, ...] = field(name="left_out")
