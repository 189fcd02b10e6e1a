"""Records of optimizers' trajectories on a surface, and the JSON of `optadvise trajectories`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from optadvise.core.cards import Surface

Pair = tuple[float, float]


class Point(Struct, frozen=True, array_like=True):
    """Two weights and the surface's value there."""

    x: float
    y: float
    value: float


class Goal(Struct, frozen=True):
    """The value from which on an optimizer has arrived, and what that means."""

    at_most: float
    say: str


class SurfaceSummary(Struct, frozen=True, kw_only=True):
    """A loss of two weights."""

    id: str
    name: str
    formula: str
    x: Annotated[Pair, Meta(description="Drawn range, low and high.")]
    y: Pair
    start: Pair
    minimum: Pair | None
    goal: Goal
    cite: tuple[str, ...]


class Trajectory(Struct, frozen=True, kw_only=True):
    """The path of one optimizer."""

    optimizer: str = field(name="id")
    name: str
    path: Annotated[str, Meta(description="Class that was stepped.")] = field(name="import")
    kwargs: Mapping[str, Any]
    lr: float
    because: Annotated[str, Meta(description="Reason for the learning rate.")]
    cite: tuple[str, ...]
    end: Annotated[
        Literal["steps", "outside", "not-finite"],
        Meta(description="steps: took them all; outside: left the drawn range; not-finite: diverged"),
    ]
    reached: Annotated[int | None, Meta(description="First step at the goal.")]
    points: Annotated[tuple[Point, ...], Meta(description="The start, then the point after each step.")]


class SkippedOptimizer(Struct, frozen=True, kw_only=True):
    """An optimizer that cannot step two weights here."""

    optimizer: str = field(name="id")
    because: str


class TrajectoriesResult(Struct, frozen=True, kw_only=True):
    """The JSON of `optadvise trajectories`. Schema version 1: keys may be added, never renamed."""

    schema_version: Literal[1] = 1
    kind: Literal["trajectories"] = "trajectories"
    surface: SurfaceSummary
    steps: int
    trajectories: tuple[Trajectory, ...] = field(name="walks")
    skipped: tuple[SkippedOptimizer, ...] = field(name="left_out")


def summarize_surface(surface: Surface) -> SurfaceSummary:
    """Return the parts of a surface that results have."""
    return SurfaceSummary(
        id=surface.id, name=surface.name, formula=surface.formula, x=surface.x, y=surface.y, start=surface.start,
        minimum=surface.minimum, goal=Goal(surface.goal.at_most, surface.goal.say), cite=surface.cite,
    )  # fmt: skip
