"""Immutable records of what the rule files declare: optimizers, schedules, GPUs and sources.

They are the only declaration of these files' keys (see `core.yaml_types`); frameworks, surfaces and claims are in
the modules beside this one, tables and facts in `rulebase`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct
from msgspec import field as struct_field

from optadvise.core.yaml_types import (
    Cites,
    Distribution,
    FactId,
    Identifier,
    ImportPath,
    Internal,
    ModelId,
    OptimizerId,
    Plain,
    SchedulerId,
    Version,
    Word,
)

Scalar: TypeAlias = float | int | bool | str | None
Value: TypeAlias = Scalar | list[Scalar]
FactValue: TypeAlias = str | int | float | bool | None

# Words in the names of matrices that are not hidden, which matrix optimizers leave to their companion.
NOT_HIDDEN = ("embed", "embedding", "embeddings", "head", "token", "position", "wte", "wpe")
FAMILIES = ("sgd", "adaptive", "sign", "layerwise", "matrix", "free")  # of optimizers
Family: TypeAlias = Literal["sgd", "adaptive", "sign", "layerwise", "matrix", "free"]
# Over several ranks: DDP, ZeroRedundancyOptimizer, FSDP2.
Sharding = Annotated[str, Meta(pattern="^(none|zero1|fsdp)$", description="one of none, zero1, fsdp")]
Variant = Annotated[
    str, Meta(pattern="^(fused|foreach|for-loop|triton)$", description="one of fused, foreach, for-loop, triton")
]
SHARDINGS = ("none", "zero1", "fsdp")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "broadcast")
AGREES = "agrees"  # what an implementation does over several ranks where it computes what one process does
SHIPPED = "shipped"  # the layer of the rules that come with the program
MOST_STEPS = 10_000  # of a trajectory on a surface, which has a point for each
UNKNOWN = "unknown"  # how a condition accepts a fact that is not specified


class ExperimentDesign(Struct, frozen=True):
    """The requirements of an experiment, and the distribution of its figures."""

    sides: int  # optimizers that run
    setting: tuple[str, ...]  # required keys of the claim's `setting`
    sweeps_lr: bool = False  # each side has learning rates to try
    ratio: bool = True  # its figures are above zero and spread by factors; else they may have any sign


_TRAINING = ("network", "batch_size", "steps")
_SPIKE = (*_TRAINING, "spike_at", "spike_steps", "spike_times", "after")
EXPERIMENTS: Mapping[str, ExperimentDesign] = {  # that a claim may name
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


class Range(Struct, frozen=True, array_like=True):
    """An interval of accepted numbers; None is no bound."""

    low: float | None
    low_closed: bool
    high: float | None
    high_closed: bool


# Of lists that may be left out but not be empty; msgspec's own limit would reject the default in the cache.
NOT_EMPTY = Meta(extra={"min_items": 1}, extra_json_schema={"minItems": 1})
SEVERAL = Meta(extra={"min_items": 2}, extra_json_schema={"minItems": 2})


class CardRecord(Struct, frozen=True, kw_only=True):
    """A record that is read from a rule file."""


class Source(CardRecord, frozen=True, kw_only=True):
    """A publication, documentation page or measurement that entries cite."""

    id: Internal = ""
    title: str
    url: str
    authors: str | None = None
    year: int | None = None


class Note(CardRecord, frozen=True, kw_only=True):
    """A sentence with its sources."""

    text: str
    cite: Cites


class Reason(CardRecord, frozen=True, kw_only=True):
    """A sentence for or against an optimizer, and the claim that it rests on, if it does on one."""

    __shorthand__: ClassVar[str] = "text"

    text: str
    claim: Word | None = None


class Step(CardRecord, frozen=True, kw_only=True):
    """One adjustment of one hyperparameter: a `scale` by a factor or a power of a fact, or a `clamp`."""

    scale: str | None = None  # the hyperparameter
    clamp: str | None = None  # the hyperparameter
    because: str
    cite: Cites
    factor: float | None = None
    by: FactId | None = None  # the fact whose ratio to `reference` is raised to `exponent`
    reference: float | None = None
    exponent: float = 1.0
    max_value: float | None = None  # of the fact; larger values count as this one
    low: float | None = None
    high: float | None = None
    at: Internal = ""

    @property
    def op(self) -> Literal["scale", "clamp"]:
        """Return the kind of the step."""
        return "clamp" if self.scale is None else "scale"

    @property
    def parameter(self) -> str:
        """Return the hyperparameter that the step adjusts."""
        return str(self.scale or self.clamp)


class StateTensor(CardRecord, frozen=True, kw_only=True):
    """One tensor that an optimizer keeps, and for which weights."""

    name: str
    per: Literal["element", "tensor", "block", "row", "column", "row-square", "column-square", "optimizer"]
    # `parameter` follows the weight.
    dtype: Literal["parameter", "float32", "bfloat16", "float16", "uint8", "int8", "uint4", "int64"]
    block: int = 1  # elements per block
    elements: int = 1  # elements per tensor or per optimizer
    min_elements: int = 0
    max_elements: int | None = None
    min_ndim: int = 0
    max_ndim: int | None = None
    max_side: int | None = None  # longest axis that gets a square
    weights: Literal["half"] | None = None  # `half`: only beside 16-bit weights


class Hyperparameter(CardRecord, frozen=True, kw_only=True):
    """A constructor argument that a person may set."""

    name: Identifier
    default: Plain
    advised: bool  # the rules choose it; otherwise the default is the advice
    meaning: str
    low: float | None = None
    high: float | None = None


class Deviation(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """In what an implementation deviates from its paper."""

    in_: str = struct_field(name="in")
    cite: Cites
    by: Plain = None

    @property
    def text(self) -> str:
        """Return the deviation behind its size, where the card has that."""
        return f"{self.by}: {self.in_}" if self.by else self.in_


class AuditAllowance(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """Exceptions that an audit makes for an implementation."""

    because: str
    rounding: float | None = None  # the share that its own arithmetic costs
    leaves_out: tuple[str, ...] = ()  # scenarios that have several right answers


class Implementation(CardRecord, frozen=True, kw_only=True):
    """One installable class that computes an optimizer."""

    id: Word
    path: ImportPath = struct_field(name="import")
    package: Distribution | None  # on PyPI; None where it has to be built from source
    devices: Annotated[tuple[Literal["cpu", "cuda", "mps"], ...], Meta(min_length=1)]
    min_version: Version | None = None
    kwargs: Mapping[Identifier, Plain] = {}  # always passed
    cpu_kwargs: Mapping[Identifier, Plain] = {}  # additional arguments on a machine without a GPU
    arguments: Mapping[Identifier, Identifier] = {}  # our name -> the constructor's
    variants: Mapping[Variant, Mapping[Identifier, Plain]] = {}
    tensors: Literal["matrix"] | None = None  # `matrix`: takes 2-D weights only
    needs_train_mode: bool = False
    state: tuple[StateTensor, ...] | None = None  # where it differs from the card's
    # Copies that one step makes while it runs, in items of the weights: of all tensors at once (foreach), or of the
    # largest, where tensors are stepped one by one.
    scratch_all: float = 0.0
    scratch_largest: float = 0.0
    compiled: bool = False  # its step is compiled where there is a GPU, and then makes no copies
    deviates: Deviation | None = None
    note: str | None = None
    # What becomes of its step over several ranks: `agrees` with one process, or what goes wrong.
    sharding: Mapping[Sharding, str] = {}
    sharding_kwargs: Mapping[Sharding, Mapping[Identifier, Plain]] = {}  # additional arguments under sharding
    audit: AuditAllowance | None = None

    @property
    def fused(self) -> Mapping[str, Value]:
        """Return the arguments of the fused variant, empty where there is none."""
        return self.variants.get("fused", {})


class Companion(CardRecord, frozen=True, kw_only=True):
    """The optimizer of the tensors that another does not take."""

    optimizer: OptimizerId
    tensors: str = struct_field(name="for")


class Optimizer(CardRecord, frozen=True, kw_only=True):
    """An optimizer's card."""

    id: Word
    name: str
    aliases: tuple[str, ...] = ()
    family: Family
    parents: tuple[OptimizerId, ...]
    year: int
    summary: str
    equation: Annotated[tuple[str, ...], Meta(min_length=1)]
    effort: Literal["low", "medium", "high"]
    lr_scale: Literal["adam", "sgd", "custom"]  # custom: the card's own defaults are the learning rates
    decay: Literal["decoupled", "coupled", "none"]
    sparse_gradients: bool
    model_types: tuple[ModelId, ...]  # that it suits
    hyperparameters: Annotated[tuple[Hyperparameter, ...], Meta(min_length=1)]
    adjust: tuple[Step, ...] = ()
    state: tuple[StateTensor, ...]
    implementations: Annotated[tuple[Implementation, ...], Meta(min_length=1)]
    # That are called so, and why they are not taken.
    not_offered: Annotated[tuple[Implementation, ...], NOT_EMPTY] = ()
    companion: Companion | None = None
    # The only ones it may run under.
    schedules: Annotated[tuple[SchedulerId, ...], Meta(min_length=1)] | None = None
    clips_update: bool = False  # needs no gradient clipping
    paged: bool = False  # state may leave the GPU
    wide_embeddings: bool = False  # transformers' Trainer keeps the state of embeddings in 32 bits
    use_when: Annotated[tuple[Reason, ...], Meta(min_length=1)]
    avoid_when: Annotated[tuple[Reason, ...], Meta(min_length=1)]
    notes: tuple[Note, ...] = ()
    cite: Cites
    at: Internal = ""
    layer: Internal = SHIPPED

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Return the hyperparameter of a name, or None."""
        return next((h for h in self.hyperparameters if h.name == name), None)


PhaseShape = Annotated[
    str,
    Meta(
        pattern="^(linear|cosine|constant|inverse-sqrt|step|one-cycle)$",
        description="one of linear, cosine, constant, inverse-sqrt, step, one-cycle",
    ),
]


class Phase(CardRecord, frozen=True, kw_only=True):
    """One leg of a schedule, as a torch class and its arguments; `$names` stand for quantities of the run."""

    shape: PhaseShape
    path: ImportPath = struct_field(name="import")
    kwargs: Mapping[Identifier, Plain]


class ScheduleParameter(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """A parameter of a schedule, for its card."""

    name: str
    meaning: str
    default: Plain = None


class Scheduler(CardRecord, frozen=True, kw_only=True):
    """A schedule's card."""

    id: Word
    name: str
    aliases: tuple[str, ...] = ()
    family: Literal["hold", "anneal", "step", "cycle", "inverse", "wsd"]
    warmup: bool
    shape: str
    summary: str
    parameters: tuple[ScheduleParameter, ...]
    phases: Annotated[tuple[Phase, ...], Meta(min_length=1)]
    floor: float = 0.0  # share of the peak at the end
    decay_fraction: float = 0.0  # share of the run that decays, where a plateau comes before
    milestones: tuple[float, ...] = ()  # shares of the run
    use_when: Annotated[tuple[str, ...], Meta(min_length=1)]
    avoid_when: Annotated[tuple[str, ...], Meta(min_length=1)]
    notes: tuple[Note, ...] = ()
    cite: Cites
    at: Internal = ""
    layer: Internal = SHIPPED


class Gpu(CardRecord, frozen=True, kw_only=True):
    """A GPU as sold."""

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    memory_gib: float
    bandwidth_gb_s: float
    vendor: str
    cite: str
    bf16: bool = True  # computes in bf16
    usual: bool = False  # shown where no GPU is named

    @property
    def memory_bytes(self) -> int:
        """Return the memory in bytes."""
        return round(self.memory_gib * 2**30)
