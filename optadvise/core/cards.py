"""Immutable records of the rule files for optimizers, schedules, GPUs and sources.

The records declare the keys of these files (see `core.yaml_types`). Frameworks, surfaces and claims have their own
modules in `core`; tables and facts are in `rulebase`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct
from msgspec import field as struct_field
from msgspec.structs import replace

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

# Words in the names of matrices that are not hidden layers; the companion of a matrix optimizer trains these.
NOT_HIDDEN = ("embed", "embedding", "embeddings", "head", "token", "position", "wte", "wpe")
FAMILIES = ("sgd", "adaptive", "sign", "layerwise", "matrix", "free")  # optimizer families
Family: TypeAlias = Literal["sgd", "adaptive", "sign", "layerwise", "matrix", "free"]
# Sharding over several ranks: DDP, ZeroRedundancyOptimizer (ZeRO-1), FSDP2.
Sharding = Annotated[str, Meta(pattern="^(none|zero1|fsdp)$", description="one of none, zero1, fsdp")]
Variant = Annotated[
    str, Meta(pattern="^(fused|foreach|for-loop|triton)$", description="one of fused, foreach, for-loop, triton")
]
DeviceType = Annotated[str, Meta(pattern="^(cpu|cuda|mps)$", description="one of cpu, cuda, mps")]
SHARDINGS = ("none", "zero1", "fsdp")
SHARDING_LABELS: Mapping[str, str] = {"none": "DDP", "zero1": "ZeRO-1", "fsdp": "FSDP2"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "broadcast")
AGREES = "agrees"  # an implementation on several ranks computes the same result as on one process
SHIPPED = "shipped"  # name of the rule layer that comes with the package
MOST_STEPS = 10_000  # maximum length of a trajectory
UNKNOWN = "unknown"  # value of a condition that accepts a fact without a value


class Range(Struct, frozen=True, array_like=True):
    """Interval of numbers; None for no bound."""

    low: float | None
    low_closed: bool
    high: float | None
    high_closed: bool


# For optional lists that must not be empty; msgspec's own limit would reject the default value in the cache.
NOT_EMPTY = Meta(extra={"min_items": 1}, extra_json_schema={"minItems": 1})
SEVERAL = Meta(extra={"min_items": 2}, extra_json_schema={"minItems": 2})


class CardRecord(Struct, frozen=True, kw_only=True):
    """Record that is read from a rule file."""


class Source(CardRecord, frozen=True, kw_only=True):
    """Publication, documentation page or measurement that entries cite."""

    id: Internal = ""
    title: str
    url: str
    authors: str | None = None
    year: int | None = None


class Note(CardRecord, frozen=True, kw_only=True):
    """Sentence with its sources."""

    text: str
    cite: Cites


class Reason(CardRecord, frozen=True, kw_only=True):
    """Reason for or against an optimizer, and optionally the id of the claim that tests it."""

    __shorthand__: ClassVar[str] = "text"

    text: str
    claim: Word | None = None


class Step(CardRecord, frozen=True, kw_only=True):
    """Adjustment of a hyperparameter: `scale` by a factor or by a power of a fact, or `clamp` to a range."""

    scale: str | None = None  # hyperparameter
    clamp: str | None = None  # hyperparameter
    because: str
    cite: Cites
    factor: float | None = None
    by: FactId | None = None  # scale by (fact / reference) ** exponent
    reference: float | None = None
    exponent: float = 1.0
    max_value: float | None = None  # upper limit of the fact
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
    """Tensor of the optimizer state, and the weights that have it."""

    name: str
    # `long-side` and `short-side`: a matrix of `rank` vectors along the longer or shorter axis.
    per: Literal["element", "tensor", "block", "row", "column", "row-square", "column-square", "long-side",
                 "short-side", "optimizer"]  # fmt: skip
    # `parameter`: the dtype of the weight.
    dtype: Literal["parameter", "float32", "bfloat16", "float16", "uint8", "int8", "uint4", "int64"]
    block: int = 1  # elements per block
    elements: int = 1  # elements per tensor or per optimizer
    rank: int = 1  # vectors of a low-rank matrix, at most the shorter axis
    min_elements: int = 0
    max_elements: int | None = None
    min_ndim: int = 0
    max_ndim: int | None = None
    max_side: int | None = None  # longest axis that has a square matrix
    weights: Literal["half"] | None = None  # `half`: only with 16-bit weights
    paged_from: int | None = None  # elements of a weight from which on the tensor is in managed memory; None: never


class PublishedValue(CardRecord, frozen=True, kw_only=True):
    """Value of a hyperparameter that published runs use instead of the default."""

    value: Plain
    model_types: Annotated[tuple[ModelId, ...], Meta(min_length=1)]
    tasks: Annotated[tuple[Word, ...], Meta(min_length=1)]
    because: str
    cite: Cites


class Hyperparameter(CardRecord, frozen=True, kw_only=True):
    """Hyperparameter of an optimizer."""

    name: Identifier
    default: Plain
    advised: bool  # whether the rules choose the value; otherwise `published` or the default is recommended
    published: PublishedValue | None = None
    meaning: str
    low: float | None = None
    high: float | None = None


class Deviation(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """Deviation of an implementation from its paper."""

    in_: str = struct_field(name="in")
    cite: Cites
    by: Plain = None

    @property
    def text(self) -> str:
        """Return the deviation, preceded by its size if the card has one."""
        return f"{self.by}: {self.in_}" if self.by else self.in_


class AuditAllowance(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """Exceptions for an implementation in audits."""

    because: str
    rounding: float | None = None  # relative error of its arithmetic
    leaves_out: tuple[str, ...] = ()  # scenarios with several correct results


class VariantRequirement(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """Requirements of a variant in addition to those of its implementation."""

    devices: Annotated[tuple[DeviceType, ...], NOT_EMPTY] = ()  # empty: all devices of the implementation
    min_version: Mapping[DeviceType, Version] = {}  # of the implementation's package, on a device
    package: Distribution | None = None  # another package
    sharding: Annotated[tuple[Sharding, ...], NOT_EMPTY] = ()  # empty: all kinds that its arguments allow
    cite: Cites


class Implementation(CardRecord, frozen=True, kw_only=True):
    """Installable class that implements an optimizer."""

    id: Word
    path: ImportPath = struct_field(name="import")
    package: Distribution | None  # on PyPI; None if it must be built from source
    devices: Annotated[tuple[DeviceType, ...], Meta(min_length=1)]
    min_version: Version | None = None
    # Attribute that is true if the package has loaded its library for torch's GPU; imports succeed without the library.
    has_cuda: ImportPath | None = None
    kwargs: Mapping[Identifier, Plain] = {}  # constructor arguments on every device
    cpu_kwargs: Mapping[Identifier, Plain] = {}  # additional arguments on a machine without a GPU
    arguments: Mapping[Identifier, Identifier] = {}  # hyperparameter of the card -> constructor argument
    step_arguments: tuple[Identifier, ...] = ()  # constructor arguments whose value is the number of steps of the run
    variants: Mapping[Variant, Mapping[Identifier, Plain]] = {}
    variant_requirements: Mapping[Variant, VariantRequirement] = {}
    # `matrix`: only for 2-D weights of hidden layers; `table`: only for embedding tables.
    tensors: Literal["matrix", "table"] | None = None
    gradients: Literal["sparse"] | None = None  # `sparse`: rejects dense gradients
    needs_train_mode: bool = False
    # Classes of Python objects in its state dict; torch.load reads only those that a program allows.
    checkpoint_classes: tuple[ImportPath, ...] = ()
    state: tuple[StateTensor, ...] | None = None  # None: the state of the card
    # Temporary memory during a step, in copies of the weights: of all tensors at once (foreach), or of the largest
    # tensor (for-loop).
    scratch_all: float = 0.0
    scratch_largest: float = 0.0
    compiled: bool = False  # the step is compiled on a GPU and then needs no temporary copies
    deviates: Deviation | None = None
    note: str | None = None
    # Result of a step on several ranks: `agrees` with one process, or a description of the error.
    sharding: Mapping[Sharding, str] = {}
    sharding_kwargs: Mapping[Sharding, Mapping[Identifier, Plain]] = {}  # additional arguments with sharding
    audit: AuditAllowance | None = None

    @property
    def fused(self) -> Mapping[str, Value]:
        """Return the arguments of the fused variant; empty unless every version and device supports it."""
        return {} if "fused" in self.variant_requirements else self.variants.get("fused", {})


class Companion(CardRecord, frozen=True, kw_only=True):
    """Optimizer of the tensors that the main optimizer does not support."""

    optimizer: OptimizerId
    tensors: str = struct_field(name="for")


class Optimizer(CardRecord, frozen=True, kw_only=True):
    """Card of an optimizer."""

    id: Word
    name: str
    aliases: tuple[str, ...] = ()
    family: Family
    parents: tuple[OptimizerId, ...]
    # Optimizer with the same update, up to the precision and place of the state and the kind of momentum or decay.
    same_as: OptimizerId | None = None
    year: int
    summary: str
    equation: Annotated[tuple[str, ...], Meta(min_length=1)]
    effort: Literal["low", "medium", "high"]
    lr_scale: Literal["adam", "sgd", "custom"]  # custom: the card's default is the learning rate
    decay: Literal["decoupled", "coupled", "none"]
    sparse_gradients: bool
    model_types: tuple[ModelId, ...]  # suitable kinds of model
    hyperparameters: Annotated[tuple[Hyperparameter, ...], Meta(min_length=1)]
    adjust: tuple[Step, ...] = ()
    state: tuple[StateTensor, ...]
    implementations: Annotated[tuple[Implementation, ...], Meta(min_length=1)]
    # Implementations with the same name that are not offered; `note` has the reason.
    not_offered: Annotated[tuple[Implementation, ...], NOT_EMPTY] = ()
    companion: Companion | None = None
    # Supported schedules; None for all.
    schedules: Annotated[tuple[SchedulerId, ...], Meta(min_length=1)] | None = None
    clips_update: bool = False  # whether it makes gradient clipping unnecessary
    paged: bool = False  # whether the state can be paged to host memory
    wide_embeddings: bool = False  # whether the transformers Trainer uses 32-bit state for embeddings
    use_when: Annotated[tuple[Reason, ...], Meta(min_length=1)]
    avoid_when: Annotated[tuple[Reason, ...], Meta(min_length=1)]
    notes: tuple[Note, ...] = ()
    cite: Cites
    at: Internal = ""
    layer: Internal = SHIPPED

    @property
    def update(self) -> str:
        """Return the id of the optimizer that stands for all with the same update."""
        return self.same_as or self.id

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Return the hyperparameter with this name, or None."""
        return next((h for h in self.hyperparameters if h.name == name), None)


class NoCard(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """Names of optimizers that have no card, with the reason for the error message."""

    names: Annotated[tuple[str, ...], Meta(min_length=1)]
    because: str
    use: OptimizerId | None = None  # the closest optimizer with a card
    cite: Cites
    at: Internal = ""


PhaseShape = Annotated[
    str,
    Meta(
        pattern="^(linear|cosine|constant|inverse-sqrt|step|one-cycle)$",
        description="one of linear, cosine, constant, inverse-sqrt, step, one-cycle",
    ),
]


class Phase(CardRecord, frozen=True, kw_only=True):
    """Phase of a schedule: a torch class and its arguments; `$names` stand for quantities of the run."""

    shape: PhaseShape
    path: ImportPath = struct_field(name="import")
    kwargs: Mapping[Identifier, Plain]


class ScheduleParameter(CardRecord, frozen=True, kw_only=True, omit_defaults=True):
    """Parameter of a schedule."""

    name: str
    meaning: str
    default: Plain = None


class Scheduler(CardRecord, frozen=True, kw_only=True):
    """Card of a schedule."""

    id: Word
    name: str
    aliases: tuple[str, ...] = ()
    family: Literal["hold", "anneal", "step", "cycle", "inverse", "wsd"]
    warmup: bool
    shape: str
    summary: str
    parameters: tuple[ScheduleParameter, ...]
    phases: Annotated[tuple[Phase, ...], Meta(min_length=1)]
    floor: float = 0.0  # final learning rate as a fraction of the peak
    floor_by_model: Mapping[str, float] = {}  # kind of model -> floor
    decay_fraction: float = 0.0  # fraction of the run that decays after a plateau
    milestones: tuple[float, ...] = ()  # fractions of the run
    use_when: Annotated[tuple[str, ...], Meta(min_length=1)]
    avoid_when: Annotated[tuple[str, ...], Meta(min_length=1)]
    notes: tuple[Note, ...] = ()
    cite: Cites
    at: Internal = ""
    layer: Internal = SHIPPED

    def for_model(self, model: str | None) -> "Scheduler":
        """Return the card with the floor for a kind of model."""
        return replace(self, floor=self.floor_by_model.get(model or UNKNOWN, self.floor))


class Gpu(CardRecord, frozen=True, kw_only=True):
    """GPU model."""

    id: str
    name: str
    aliases: tuple[str, ...] = ()
    memory_gib: float
    bandwidth_gb_s: float
    vendor: str
    cite: str
    bf16: bool = True  # whether it supports bf16
    usual: bool = False  # whether estimates list it if no GPU is specified
    shared_memory: bool = False  # whether it uses the main memory, which is sold in several sizes

    @property
    def series(self) -> str:
        """Return the name without the memory size."""
        return re.split(r",? \d+ GB\b", self.name, maxsplit=1)[0]

    @property
    def memory_bytes(self) -> int:
        """Return the memory in bytes."""
        return round(self.memory_gib * 2**30)
