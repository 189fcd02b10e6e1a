"""Immutable records of `claims.yaml`: claims about optimizers and the experiments that test them."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from optadvise.core.cards import NOT_EMPTY, SEVERAL, CardRecord, Range
from optadvise.core.yaml_types import Cites, Identifier, Internal, OptimizerId, Plain, RuleId, Word


class ExperimentDesign(Struct, frozen=True):
    """Requirements of an experiment, and the distribution of its results."""

    sides: int  # number of optimizers
    setting: tuple[str, ...]  # required keys of the claim's `setting`
    sweeps_lr: bool = False  # each optimizer runs with several learning rates
    ratio: bool = True  # results are positive and log-normal; otherwise they can be negative


_TRAINING = ("network", "batch_size", "steps")
_SPIKE = (*_TRAINING, "spike_at", "spike_steps", "spike_times", "after")
EXPERIMENTS: Mapping[str, ExperimentDesign] = {  # by the name that claims refer to
    "state-ratio": ExperimentDesign(2, ("shape",)),
    "state-buffers": ExperimentDesign(1, ("shape",)),
    "path-distance": ExperimentDesign(2, ("shape", "steps")),
    "first-step-ratio": ExperimentDesign(1, ("shape", "steps")),
    "decay-evenness": ExperimentDesign(1, ("elements", "steps", "scales")),
    "goal-steps-ratio": ExperimentDesign(2, ("surface", "steps")),
    "step-time-ratio": ExperimentDesign(2, ("params", "steps")),
    "curve-distance": ExperimentDesign(2, (*_TRAINING, "smooth")),
    "final-loss-ratio": ExperimentDesign(2, (*_TRAINING, "last")),
    "damage-ratio": ExperimentDesign(2, _SPIKE, ratio=False),
    "best-rate-ratio": ExperimentDesign(2, (*_TRAINING, "last"), sweeps_lr=True),
    "best-loss-ratio": ExperimentDesign(2, (*_TRAINING, "last"), sweeps_lr=True),
    "rate-width-ratio": ExperimentDesign(2, (*_TRAINING, "last", "within"), sweeps_lr=True),
    "rate-growth-ratio": ExperimentDesign(2, (*_TRAINING, "last", "times"), sweeps_lr=True),
}


class Trial(CardRecord, frozen=True, kw_only=True):
    """An optimizer in an experiment, and its settings."""

    optimizer: OptimizerId
    implementation: Word | None = None  # None: the first that is installed
    hyperparameters: Mapping[Identifier, Plain] = {}  # values that differ from the card's defaults
    learning_rates: Annotated[tuple[float, ...], SEVERAL] = ()  # learning rates of a sweep
    warmup_steps: int = 0
    max_grad_norm: float | None = None


class Claim(CardRecord, frozen=True, kw_only=True):
    """Claim with an experiment that can refute it. The measured quantity is a ratio or fraction without a unit."""

    id: Word
    claim: str
    cite: Cites
    quote: str | None = None  # quotation from the source
    experiment: Annotated[str, Meta(extra={"reader": "experiment"})] | None = None  # None: see `needs`
    trials: Annotated[tuple[Trial, ...], NOT_EMPTY] = ()
    setting: Mapping[Identifier, Plain] = {}
    measures: str | None = None  # description of the measured quantity
    # Range of the measured quantity if the claim is true.
    expected_range: (
        Annotated[Range, Meta(extra={"reader": "range"}, extra_json_schema={"type": ["number", "string"]})] | None
    ) = None
    seeds: int = 1  # number of seeds, starting at 0
    devices: Annotated[tuple[Literal["cpu", "cuda"], ...], Meta(min_length=1)] = ("cpu",)  # in order of preference
    limits: str | None = None  # what the experiment cannot show
    needs: str | None = None  # what a test of the claim would require, without an experiment
    supports: tuple[RuleId, ...] = ()  # rules whose reason is this claim
    about: Annotated[tuple[OptimizerId, ...], NOT_EMPTY] = ()  # optimizers, without an experiment
    at: Internal = ""

    @property
    def optimizers(self) -> tuple[str, ...]:
        """Return the optimizers of the claim without duplicates; the claim is about the first."""
        return tuple(dict.fromkeys((*self.about, *(trial.optimizer for trial in self.trials))))


class ClaimFile(CardRecord, frozen=True, kw_only=True):
    """`claims.yaml`."""

    claims: Annotated[tuple[Claim, ...], Meta(min_length=1)]
