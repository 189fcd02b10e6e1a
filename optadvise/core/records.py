"""Immutable records of a run and of the answers about it: situation, recommendation, memory, alternatives.

Bytes and steps everywhere; GiB and percent are for the renderers. `None` means unknown, never zero. What the rule files
declare is in `core.cards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field
from msgspec.structs import asdict, replace

from optadvise.core.cards import SHIPPED, FactValue, Implementation, Optimizer, Phase, Value
from optadvise.core.findings import Evidence

Positive: TypeAlias = Annotated[int, Meta(gt=0)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0)]

_SHARDED_BY = {"none": "none", "zero1": "zero1", "zero2": "fsdp", "zero3": "fsdp"}


class NetworkShape(Struct, frozen=True):
    """A network's family and dimensions, as far as memory needs them."""

    family: str
    name: str
    basis: str  # config, named, dimensions, or typical of its size
    dims: tuple[tuple[str, int], ...]
    flags: tuple[str, ...]


InputValue: TypeAlias = FactValue | NetworkShape  # None is unknown
FactValues: TypeAlias = Mapping[str, InputValue]  # by fact, as they are stated or assumed; `shape` is a network's


def read_count(facts: FactValues, name: str) -> int:
    """Return the value of a numeric fact that is known."""
    count = facts[name]
    assert isinstance(count, int), f"{name} is a count"
    return count


class Situation(Struct, frozen=True):
    """A training run, as far as it is known; None is an unknown value.

    A value is stated by the user, a default of the rules, or derived from the others. Every value has its default here
    where no rule gives one. `state`, `derive` and `withdraw` keep account of that.
    """

    model: str | None = None
    task: str = "pretrain"
    method: str = "full"
    params: Positive | None = None  # of the whole model
    shape: NetworkShape | None = None
    lora_rank: Positive | None = None  # of adapters, where there are any
    lora_targets: str = "all"  # linear layers with adapters, by their short names, joined by commas
    vram_bytes: Positive | None = None  # of one GPU
    gpu: str | None = None
    bf16: bool = True  # the GPU computes in bf16
    vendor: str = "nvidia"  # of the GPU
    gpus: Positive = 1
    batch_size: Positive | None = None  # samples per optimizer step, over all GPUs and accumulation
    micro_batch: Positive | None = None  # samples per forward pass on one GPU
    precision: str = "amp-bf16"
    stability: str = "stable"
    tuning: str = "low"
    priority: str = "balanced"
    sparse_gradients: bool = False
    shard: str = "none"
    seq_len: Positive | None = None  # tokens of a sample
    image_size: Positive | None = None  # pixels of an image's side
    checkpointing: str = "none"
    attention: str = "flash"
    loss: str = "whole"  # or chunked: logits are never there as a whole
    gradient_release: bool = False
    clipping: bool = False  # the global gradient norm is clipped; False is not said
    offload: bool = False  # optimizer state on the host
    steps: Positive = 100_000  # optimizer steps of the whole run
    optimizer: str | None = None  # taken instead of choosing
    stated: tuple[str, ...] = ()  # names of the facts that the user stated
    defaults: tuple[str, ...] = ()  # of those that were not stated: they have a rule's default, or stay unknown
    derived: tuple[str, ...] = ()  # of those that were computed from the others

    @property
    def assumed(self) -> tuple[str, ...]:
        """Return the facts that were not stated: those with a default or unknown, then those derived."""
        return (*self.defaults, *self.derived)

    @property
    def stated_inputs(self) -> dict[str, InputValue]:
        """Return the values that the user stated, by fact."""
        return {name: getattr(self, name) for name in self.stated}

    def state(self, **values: Any) -> Situation:
        """Return the situation with values that count as stated."""
        return replace(
            self, **values, stated=(*self.stated, *(name for name in values if name not in self.stated)),
            defaults=tuple(name for name in self.defaults if name not in values),
            derived=tuple(name for name in self.derived if name not in values),
        )  # fmt: skip

    def derive(self, **values: Any) -> Situation:
        """Return the situation with values that follow from the others."""
        return replace(self, **values, derived=(*self.derived, *values))

    def withdraw(self, *names: str) -> Situation:
        """Return the situation without some of its derived values; others are left as they are."""
        withdrawn = [name for name in names if name in self.derived]
        derived = tuple(name for name in self.derived if name not in withdrawn)
        return replace(self, **dict.fromkeys(withdrawn), derived=derived)

    @property
    def sharding(self) -> str | None:
        """Return how PyTorch shards the run, one of SHARDINGS; None on one GPU."""
        return _SHARDED_BY[self.shard] if self.gpus > 1 else None


SITUATION_DEFAULTS: FactValues = asdict(Situation())


class HyperparameterStep(Struct, frozen=True):
    """One step in the making of a number."""

    step: str  # what was done: `set 3e-4`, `× 0.2`
    value: Value  # the value after it
    rule: str
    because: str
    cite: tuple[str, ...]
    layer: str = SHIPPED
    refuted: str | None = None  # the claim that it rests on, where that was refuted on this machine


class AdvisedHyperparameter(Struct, frozen=True):
    """A hyperparameter's value, its usual range, and how it came to be."""

    name: str
    value: Value
    low: float | None
    high: float | None
    derivation: tuple[HyperparameterStep, ...] = field(name="ledger")


class Interval(Struct, frozen=True):
    """A figure that is not certain, in bytes."""

    low: Bytes
    expected: Bytes
    high: Bytes


class MemoryLine(Struct, frozen=True):
    """One line of the memory breakdown."""

    part: str
    bytes: Bytes | None  # all of it, whenever it is there
    how: str  # the arithmetic in words
    at_peak: Bytes | None = field(default=None, name="at_peak_bytes")  # what of it is there at the highest moment
    interval: Interval | None = None  # of what is there at the highest moment


class MemoryEstimate(Struct, frozen=True):
    """Bytes on one GPU. `total` is the peak, None for an unknown shape; `model_states` needs no shape."""

    weights: int | None  # with the fp32 copy that sharded mixed precision keeps
    gradients: int | None
    optimizer: int | None
    activations: int | None  # kept for the backward pass, with the logits
    overhead: int | None  # at the highest moment: copies, temporaries, communication, the batch and beside tensors
    total: int | None
    model_states: int | None  # weights, gradients and optimizer state
    available: int | None
    fits: bool | None  # True and False are certain within the interval
    breakdown: tuple[MemoryLine, ...]
    interval: Interval | None = None  # of the total
    intervals: Mapping[str, Interval] = {}  # of each figure above, by its name
    allocated: int | None = None  # what torch.cuda.max_memory_allocated would say
    reserved: int | None = None  # what torch.cuda.max_memory_reserved would say
    peak: str | None = None  # when the highest moment is
    basis: str = "none"  # exact shape, typical of the size, or none
    pageable: int = 0  # bytes of state that may leave the GPU


class MaxModelSize(Struct, frozen=True):
    """Up to which model size an optimizer fits."""

    optimizer: str = field(name="id")
    bytes_per_parameter: float
    max_params: int


class Alternative(Struct, frozen=True):
    """Another optimizer, why one would take it and what its state would cost."""

    id: str
    because: str
    optimizer_bytes: Bytes | None
    state_bytes_per_parameter: float
    fits: bool | None


class AdviceWarning(Struct, frozen=True):
    """Something to know before starting."""

    id: str
    level: Literal["info", "warning"]
    text: str
    cite: tuple[str, ...]
    layer: str = SHIPPED


class TraceEntry(Struct, frozen=True):
    """A rule that decided."""

    table: str
    rule: str
    because: str
    cite: tuple[str, ...]
    layer: str = SHIPPED  # whose rule it is
    refuted: str | None = None  # the claim that it rests on, where that was refuted on this machine


class Sensitivity(Struct, frozen=True):
    """The smallest change of one fact after which the optimizer is another."""

    change: Mapping[str, str]
    optimizer: str


class ScheduleAdvice(Struct, frozen=True):
    """A schedule with the numbers of this run."""

    id: str
    path: str
    kwargs: Mapping[str, Value]
    phases: tuple[Phase, ...]  # with the numbers of the run
    quantities: Mapping[str, Value]
    alternatives: Mapping[str, str]


class CompanionAdvice(Struct, frozen=True):
    """The optimizer beside another one, and the arguments of its constructor."""

    implementation: Implementation
    kwargs: Mapping[str, Value]


class Recommendation(Struct, frozen=True):
    """The advice."""

    situation: Situation
    optimizer: Optimizer
    implementation: Implementation
    kwargs: Mapping[str, Value]
    companion: CompanionAdvice | None  # for the tensors that the optimizer does not take
    hyperparameters: tuple[AdvisedHyperparameter, ...]
    schedule: ScheduleAdvice
    memory: MemoryEstimate
    max_model_sizes: tuple[MaxModelSize, ...]
    alternatives: tuple[Alternative, ...]
    warnings: tuple[AdviceWarning, ...]
    trace: tuple[TraceEntry, ...]
    sensitivities: tuple[Sensitivity, ...]
    fingerprint: str
    layers: tuple[str, ...]
    evidence: Evidence = Evidence()  # none of it where advice is worked out, which knows no machine

    @property
    def fused(self) -> Mapping[str, Value]:
        """Return the arguments of the fused variant; empty where it supports no sparse gradients or sharded tensors."""
        besides = self.implementation.sharding_kwargs.get(self.situation.sharding or "", {})
        refused = self.situation.sparse_gradients or any(name in besides for name in self.implementation.fused)
        return {} if refused else self.implementation.fused


class Fit(Struct, frozen=True):
    """One optimizer in a run's place."""

    id: str
    optimizer_bytes: Bytes | None
    total: Bytes | None = field(name="total_bytes")
    model_states: Bytes | None = field(name="known_bytes")  # weights, gradients and optimizer state
    fits: bool | None
    largest_micro_batch: int | None  # samples that fit
    longest_sequence: int | None = field(name="longest_seq_len")  # tokens of a sample that fit
    basis: str = "derived"  # or measured, or card where fake tensors cannot step it
    # It is known to fail, or to compute something else, where the run is sharded.
    breaks: bool = field(default=False, name="breaks_sharded")


class Fix(Struct, frozen=True):
    """One step of a chain of changes after which a run fits."""

    rule: str
    change: Mapping[str, FactValue]
    saves: int = field(name="saves_bytes")  # bytes: what the chain would need more without this step
    needs: int = field(name="needs_bytes")  # bytes that the whole chain needs of a GPU
    pageable: int = field(name="pageable_bytes")  # bytes of state that may leave it besides
    instead: Mapping[str, FactValue]  # of what was said
    costs: str
    cite: tuple[str, ...]


class Collective(Struct, frozen=True):
    """A collective operation of all GPUs, and its number in an optimizer step."""

    operation: str  # all-reduce, all-gather, reduce-scatter or broadcast
    of: str  # weights, updated (those that are trained) or gradients
    when: str
    bytes: Bytes  # of what is reduced or gathered, all GPUs' parts of it
    times: int  # in one optimizer step
    sent: Bytes = field(name="sent_bytes")  # bytes by each GPU in one optimizer step, by a ring


class Traffic(Struct, frozen=True):
    """Bytes that each GPU sends to the others in an optimizer step."""

    sent: Bytes = field(name="sent_bytes")  # bytes
    passes: int  # forward and backward passes of the step
    collectives: tuple[Collective, ...]
    note: str | None  # what another engine does otherwise
    cite: tuple[str, ...]


class Scale(Struct, frozen=True):
    """The same run on another number of GPUs."""

    gpus: int
    optimizer_bytes: Bytes  # of state on one GPU
    master_bytes: Bytes = field(name="master_copy_bytes")  # of the fp32 copy of the weights that is sharded with it
    total: Bytes | None = field(name="total_bytes")
    fits: bool | None
    micro_batch: int
    largest_micro_batch: int | None
    sent: Bytes = field(name="sent_bytes")  # bytes by each GPU in an optimizer step


class Scaling(Struct, frozen=True):
    """Effect of more GPUs on memory and communication."""

    sample_bytes: int | None  # what one more sample of a pass keeps for its backward
    # GPUs from which on every doubling frees less of state and copy; None where neither is there.
    enough: int | None = field(name="enough_gpus")
    scales: tuple[Scale, ...]  # the fewest first


class MemoryAnswer(Struct, frozen=True):
    """Whether a run fits one GPU, the largest inputs that fit, and changes after which it fits."""

    situation: Situation
    optimizer: str
    memory: MemoryEstimate
    largest_micro_batch: int | None  # samples that fit
    longest_sequence: int | None  # tokens of a sample that fit
    optimizers: tuple[Fit, ...]  # the least memory first
    fixes: tuple[tuple[Fix, ...], ...]  # the cheapest chain first
    measured: float | None = None  # seconds that measuring took; None where all is derived
    traffic: Traffic | None = None  # None on one GPU
    scaling: Scaling | None = None  # None where nothing is sharded
    largest_micro_batch_by_gpu: Mapping[str, int] = {}  # by the ids of the usual GPUs; empty where a limit was said
