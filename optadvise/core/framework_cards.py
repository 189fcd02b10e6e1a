"""Immutable records of `rules/frameworks/`: names and options of optimizers and schedules in each framework."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from optadvise.core.cards import CardRecord, Optimizer
from optadvise.core.records import Situation
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
    """Optimizer that a framework builds by name."""

    name: str
    settable: Annotated[tuple[Identifier, ...], Meta(min_length=1)]  # hyperparameters that can be set
    fixed: Mapping[Identifier, Plain] = {}  # values of hyperparameters that cannot be set
    settings: Mapping[Identifier, Setting] = {}  # additional settings


class NamedSchedule(CardRecord, frozen=True, kw_only=True):
    """Schedule that a framework builds by name; `$names` in its settings stand for quantities of the run."""

    name: str
    settings: Mapping[Identifier, Setting] = {}
    difference: str | None = None  # how it differs from the recommended schedule


class Framework(CardRecord, frozen=True, kw_only=True):
    """Training framework: its names and options for optimizers and schedules, and its limitations."""

    id: Word
    name: str
    package: Distribution | None
    requires: tuple[Distribution, ...] = ()  # further packages that pip does not install with `package`
    output_format: Literal["python", "yaml", "json"]
    about: str
    cite: Cites
    any_class: bool = False  # whether it accepts any optimizer class
    two_optimizers: tuple[str, ...] = ()  # precisions that support two optimizers for one network
    supported_facts: tuple[FactId, ...] = ()  # facts that its program or file sets besides the optimizer
    client: str | None = None  # how to pass an optimizer object
    unset_batch: str | None = None  # what happens without a batch size, if the framework's own default applies
    default_micro_batch: int | None = None  # that default, in samples
    decays_all: str | None = None  # why weight decay also applies to biases and norms
    substitutes: Mapping[str, str] = {}  # unsupported value, such as a precision -> substitute
    # Value of a fact, such as a kind of model or a task -> why the framework cannot train it.
    rejects: Mapping[str, str] = {}
    # Value of a fact -> its template, if that is not the framework's own.
    templates: Mapping[str, Literal["gan", "rl", "trl"]] = {}
    packages: Mapping[str, tuple[Distribution, ...]] = {}  # value of a fact -> further packages
    targets: Mapping[str, Identifier] = {}  # layers with adapters -> the framework's names, if not all are supported
    launch: str | None = None  # launch command for several GPUs; {gpus} is their number
    engine: Word = "pytorch"  # library that shards its runs, a value of the fact `engine`
    shard_launch: Mapping[str, str] = {}  # sharding -> launch command that sets it
    averages_weights: bool = False  # whether its program averages the weights
    torch_classes: bool = False  # whether it builds any torch.optim class by name
    # Hyperparameter -> arguments of the framework; several for a pair such as betas.
    arguments: Mapping[Identifier, Annotated[tuple[Identifier, ...], Meta(min_length=1)]] = {}
    optimizers: Mapping[OptimizerId, NamedOptimizer] = {}
    schedules: Mapping[SchedulerId, NamedSchedule] = {}
    at: Internal = ""

    def template(self, run: Situation) -> str:
        """Return the name of the template of a run's program."""
        return next((self.templates[value] for value in list_kinds(run) if value in self.templates), self.id)

    def by_name(self, card: Optimizer) -> NamedOptimizer | None:
        """Return the framework's entry for an optimizer; None if it cannot build it by name."""
        implementation = card.implementations[0]
        module, _, name = implementation.path.rpartition(".")
        if card.id in self.optimizers or not self.torch_classes or module != "torch.optim":
            return self.optimizers.get(card.id)
        settable = tuple(hyperparameter.name for hyperparameter in card.hyperparameters)
        return NamedOptimizer(name=name, settable=settable, settings=implementation.kwargs)


def list_kinds(run: Situation) -> tuple[str, ...]:
    """Return the facts by which cards tell programs apart: the kind of model, if it is known, and the task."""
    return (run.task,) if run.model is None else (run.model, run.task)
