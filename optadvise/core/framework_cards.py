"""Immutable records of `rules/frameworks/`: what each framework calls optimizers and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from optadvise.core.cards import CardRecord, Optimizer
from optadvise.core.yaml_types import (
    Cites,
    Distribution,
    FactId,
    Identifier,
    Internal,
    OptimizerId,
    Plain,
    SchedulerId,
    Setting,
    Word,
)


class NamedOptimizer(CardRecord, frozen=True, kw_only=True):
    """An optimizer that a framework builds by a name."""

    name: str
    settable: Annotated[tuple[Identifier, ...], Meta(min_length=1)]  # hyperparameters
    fixed: Mapping[Identifier, Plain] = {}  # values of the hyperparameters that cannot be set
    settings: Mapping[Identifier, Setting] = {}  # always given


class NamedSchedule(CardRecord, frozen=True, kw_only=True):
    """A framework's own schedule; `$names` in its settings stand for quantities of the run."""

    name: str
    settings: Mapping[Identifier, Setting] = {}
    difference: str | None = None  # from our schedule


class Framework(CardRecord, frozen=True, kw_only=True):
    """A training framework: its names and options for optimizers and schedules, and what it cannot express."""

    id: Word
    name: str
    package: Distribution | None
    output_format: Literal["python", "yaml", "json"]
    about: str
    cite: Cites
    any_class: bool = False  # takes any optimizer's class
    two_optimizers: tuple[str, ...] = ()  # the precisions under which it steps two over one network
    supported_facts: tuple[FactId, ...] = ()  # facts of the run that its program or file sets, beside the optimizer's
    client: str | None = None  # how it takes an optimizer that was built elsewhere
    decays_all: str | None = None  # how it has one parameter group, so that biases and norms decay too
    substitutes: Mapping[str, str] = {}  # value that it lacks, such as a precision -> what it does instead
    targets: Mapping[str, Identifier] = {}  # layers that take adapters one by one, where not all do
    launch: str | None = None  # what starts it on several GPUs; {gpus} is their number
    torch_classes: bool = False  # builds any class of torch.optim by its name
    # Ours -> its own, a pair taken apart.
    arguments: Mapping[Identifier, Annotated[tuple[Identifier, ...], Meta(min_length=1)]] = {}
    optimizers: Mapping[OptimizerId, NamedOptimizer] = {}
    schedules: Mapping[SchedulerId, NamedSchedule] = {}
    at: Internal = ""

    def by_name(self, card: Optimizer) -> NamedOptimizer | None:
        """Return what it builds by a name for an optimizer; None where it has no name."""
        implementation = card.implementations[0]
        module, _, name = implementation.path.rpartition(".")
        if card.id in self.optimizers or not self.torch_classes or module != "torch.optim":
            return self.optimizers.get(card.id)
        settable = tuple(hyperparameter.name for hyperparameter in card.hyperparameters)
        return NamedOptimizer(name=name, settable=settable, settings=implementation.kwargs)
