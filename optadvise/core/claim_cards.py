"""Immutable records of `claims.yaml`: sentences that an experiment can refute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from optadvise.core.cards import NOT_EMPTY, SEVERAL, CardRecord, Range
from optadvise.core.yaml_types import Cites, Identifier, Internal, OptimizerId, Plain, RuleId, Word


class Trial(CardRecord, frozen=True, kw_only=True):
    """One side of an experiment: an optimizer and how it is run."""

    optimizer: OptimizerId
    implementation: Word | None = None  # None: the best that is here
    hyperparameters: Mapping[Identifier, Plain] = {}  # others have the card's defaults
    learning_rates: Annotated[tuple[float, ...], SEVERAL] = ()  # that are tried
    warmup_steps: int = 0
    max_grad_norm: float | None = None


class Claim(CardRecord, frozen=True, kw_only=True):
    """A sentence that an experiment can refute. Its figure is a ratio or a share, so it has no unit."""

    id: Word
    claim: str  # in our words
    cite: Cites
    quote: str | None = None  # the source's own words
    experiment: Annotated[str, Meta(extra={"reader": "experiment"})] | None = None  # None: see `needs`
    trials: Annotated[tuple[Trial, ...], NOT_EMPTY] = ()
    setting: Mapping[Identifier, Plain] = {}
    measures: str | None = None  # what the figure is
    # Where the figure lies if the claim is true.
    expected_range: (
        Annotated[Range, Meta(extra={"reader": "range"}, extra_json_schema={"type": ["number", "string"]})] | None
    ) = None
    seeds: int = 1  # from 0 on
    devices: Annotated[tuple[Literal["cpu", "cuda"], ...], Meta(min_length=1)] = ("cpu",)  # the first that is here
    limits: str | None = None  # what the experiment cannot say
    needs: str | None = None  # what no experiment of a minute can be made without
    supports: tuple[RuleId, ...] = ()  # rules that repeat it as advice
    about: Annotated[tuple[OptimizerId, ...], NOT_EMPTY] = ()  # optimizers, where none runs
    at: Internal = ""

    @property
    def optimizers(self) -> tuple[str, ...]:
        """Return the optimizers of the claim, each once; the first is the subject."""
        return tuple(dict.fromkeys((*self.about, *(trial.optimizer for trial in self.trials))))


class ClaimFile(CardRecord, frozen=True, kw_only=True):
    """`claims.yaml`."""

    claims: Annotated[tuple[Claim, ...], Meta(min_length=1)]
