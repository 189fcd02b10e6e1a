"""Immutable records of `surfaces.yaml`: two-dimensional test functions for optimizer trajectories."""

from collections.abc import Mapping
from typing import Annotated

from optadvise.core.cards import NOT_EMPTY, CardRecord, Family
from optadvise.core.yaml_types import Cites, Internal, OptimizerId, Point, Word


class SurfaceGoal(CardRecord, frozen=True, kw_only=True):
    """Loss at which a trajectory reaches its goal."""

    at_most: float
    meaning: str  # description of reaching the goal, such as "leaves the saddle"


class SurfaceRate(CardRecord, frozen=True, kw_only=True):
    """Learning rate on a surface: a value, or a multiple of the card's default."""

    because: str
    cite: Cites
    lr: float | None = None
    times: float | None = None
    at: Internal = ""


class SurfaceRates(CardRecord, frozen=True, kw_only=True):
    """Learning rates by the optimizers' `lr_scale`."""

    adam: SurfaceRate
    sgd: SurfaceRate
    custom: SurfaceRate

    def by_scale(self, lr_scale: str) -> SurfaceRate:
        """Return the learning rate of optimizers whose cards have this `lr_scale`."""
        rate: SurfaceRate = getattr(self, lr_scale)
        return rate


class FamilyFactor(CardRecord, frozen=True, kw_only=True):
    """Factor on the learning rate of an optimizer family."""

    factor: float
    because: str
    cite: Cites
    at: Internal = ""


class Surface(CardRecord, frozen=True, kw_only=True):
    """Two-dimensional test function."""

    id: Word
    name: str
    formula: str
    x: Point  # range of the plot
    y: Point
    start: Point
    steps: int
    minimum: Point | None
    goal: SurfaceGoal
    learning_rates: SurfaceRates
    cite: Cites
    families: Mapping[Family, FamilyFactor] = {}  # factors on `learning_rates`
    optimizers: Mapping[OptimizerId, SurfaceRate] = {}  # learning rates that replace `learning_rates`
    at: Internal = ""


class SurfaceFile(CardRecord, frozen=True, kw_only=True):
    """`surfaces.yaml`."""

    surfaces: Annotated[tuple[Surface, ...], NOT_EMPTY] = ()
    default_optimizers: Annotated[tuple[OptimizerId, ...], NOT_EMPTY] = ()  # used if none is specified
