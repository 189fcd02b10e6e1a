"""Immutable records of `surfaces.yaml`: losses of two weights on which optimizers are watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optadvise.core.cards import NOT_EMPTY, CardRecord, Family
from optadvise.core.yaml_types import Cites, Internal, OptimizerId, Point, Word


class SurfaceGoal(CardRecord, frozen=True, kw_only=True):
    """The value of a surface that counts as having arrived."""

    at_most: float
    meaning: str  # of a value that low, such as "leaves the saddle"


class SurfaceRate(CardRecord, frozen=True, kw_only=True):
    """A learning rate on a surface: itself, or a multiple of the card's default."""

    because: str
    cite: Cites
    lr: float | None = None
    times: float | None = None
    at: Internal = ""


class SurfaceRates(CardRecord, frozen=True, kw_only=True):
    """The learning rates of each class of optimizers."""

    adam: SurfaceRate
    sgd: SurfaceRate
    custom: SurfaceRate

    def by_scale(self, lr_scale: str) -> SurfaceRate:
        """Return the learning rate of optimizers whose cards have this `lr_scale`."""
        rate: SurfaceRate = getattr(self, lr_scale)
        return rate


class FamilyFactor(CardRecord, frozen=True, kw_only=True):
    """A factor on the learning rate of a family's class."""

    factor: float
    because: str
    cite: Cites
    at: Internal = ""


class Surface(CardRecord, frozen=True, kw_only=True):
    """A loss of two weights, on which optimizers are watched."""

    id: Word
    name: str
    formula: str
    x: Point  # what is drawn of it
    y: Point
    start: Point
    steps: int
    minimum: Point | None
    goal: SurfaceGoal
    learning_rates: SurfaceRates
    cite: Cites
    families: Mapping[Family, FamilyFactor] = {}  # a factor on its class's rate
    optimizers: Mapping[OptimizerId, SurfaceRate] = {}  # a rate of its own, before its class's
    at: Internal = ""


class SurfaceFile(CardRecord, frozen=True, kw_only=True):
    """`surfaces.yaml`."""

    surfaces: Annotated[tuple[Surface, ...], NOT_EMPTY] = ()
    default_optimizers: Annotated[tuple[OptimizerId, ...], NOT_EMPTY] = ()  # where none is named
