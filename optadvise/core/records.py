"""Immutable records of a run, its recommendation and its memory estimate.

Sizes are in bytes and durations in optimizer steps; only the renderers use GiB and percent. `None` means unknown, never
zero. The records of the rule files are in `core.cards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct, field
from msgspec.structs import asdict, replace

from optadvise.core.cards import FactValue

Positive: TypeAlias = Annotated[int, Meta(gt=0)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0)]

_SHARDED_BY = {"none": "none", "zero1": "zero1", "zero2": "fsdp", "zero3": "fsdp"}


class NetworkShape(Struct, frozen=True):
    """Family and dimensions of a network, for the memory estimate."""

    family: str
    name: str
    basis: str  # origin of the dimensions: config, named, dimensions or typical
    dims: tuple[tuple[str, int], ...]
    flags: tuple[str, ...]

    @property
    def has_experts(self) -> bool:
        """Return whether the network is a mixture of experts, to which no adapters are added."""
        return "experts" in dict(self.dims)


InputValue: TypeAlias = FactValue | NetworkShape  # None is unknown
FactValues: TypeAlias = Mapping[str, InputValue]  # values by fact, stated or assumed


def read_count(facts: FactValues, name: str) -> int:
    """Return the value of a numeric fact that must be known."""
    count = facts[name]
    assert isinstance(count, int), f"{name} is a count"
    return count


def read_shape(facts: FactValues) -> NetworkShape | None:
    """Return the shape of the network; None if it is unknown."""
    shape = facts.get("shape")
    assert shape is None or isinstance(shape, NetworkShape), "shape is a NetworkShape"
    return shape


class Situation(Struct, frozen=True):
    """Training run; None is an unknown value.

    A value is stated by the user, a default of the rules, or derived from other values; the fields `stated`, `defaults`
    and `derived` list the facts of each kind. The field defaults apply if no rule has one.
    """

    model: str | None = None
    architecture: str | None = None  # of a sequence transformer: decoder, encoder or encoder-decoder
    normalization: str | None = None  # of a convolutional network: batch or layer
    objective: str | None = None  # what the model learns, such as language or detection
    task: str = "pretrain"
    method: str = "full"
    params: Positive | None = None  # parameters of the whole model
    shape: NetworkShape | None = None
    lora_rank: Positive | None = None  # rank of the adapters
    lora_targets: str = "all"  # linear layers with adapters: short names joined by commas
    vram_bytes: Positive | None = None  # memory of one GPU
    gpu: str | None = None
    bf16: bool = True  # whether the GPU supports bf16
    vendor: str = "nvidia"  # vendor of the GPU
    gpus: Positive = 1
    batch_size: Positive | None = None  # samples per optimizer step, over all GPUs and gradient accumulation steps
    micro_batch: Positive | None = None  # samples per forward pass on one GPU
    grad_accum: Positive | None = None  # stated micro-batches per optimizer step on one GPU
    precision: str = "amp-bf16"
    stability: str = "stable"
    tuning: str = "low"
    priority: str = "balanced"
    policy: str = "evidence"  # or guide: the advice follows the guide alone
    sparse_gradients: bool = False
    shard: str = "none"
    engine: str | None = None  # library that shards
    seq_len: Positive | None = None  # tokens per sample
    image_size: Positive | None = None  # height and width of an image in pixels
    checkpointing: str = "none"
    attention: str = "flash"
    loss: str = "whole"  # or chunked: the logits are computed in pieces
    gradient_release: bool = False
    clipping: bool = False  # whether the global gradient norm must be clipped
    offload: bool = False  # whether the optimizer state is in host memory
    steps: Positive = 100_000  # optimizer steps of the whole run
    tokens: Positive | None = None  # stated tokens of the whole run
    epochs: Positive | None = None  # stated passes over the data
    samples: Positive | None = None  # stated samples of the data
    optimizer: str | None = None  # requested optimizer
    schedule: str | None = None  # requested schedule
    stated: tuple[str, ...] = ()  # facts that the user stated
    defaults: tuple[str, ...] = ()  # facts with a default, or unknown
    derived: tuple[str, ...] = ()  # facts computed from other facts
    chosen: tuple[str, ...] = ()  # facts whose default `recommend` replaced, so that the run fits

    @property
    def assumed(self) -> tuple[str, ...]:
        """Return the facts that were not stated: those with a default or unknown, then the derived facts."""
        return (*self.defaults, *self.derived)

    @property
    def tokens_per_step(self) -> int | None:
        """Return the tokens of an optimizer step; None if the batch is unknown or samples have no tokens."""
        return None if self.batch_size is None or self.seq_len is None else self.batch_size * self.seq_len

    @property
    def stated_inputs(self) -> dict[str, InputValue]:
        """Return the stated values by fact."""
        return {name: getattr(self, name) for name in self.stated}

    def state(self, **values: Any) -> Situation:
        """Return the situation with additional stated values."""
        return replace(
            self, **values, stated=(*self.stated, *(name for name in values if name not in self.stated)),
            defaults=tuple(name for name in self.defaults if name not in values),
            derived=tuple(name for name in self.derived if name not in values),
        )  # fmt: skip

    def choose(self, **values: Any) -> Situation:
        """Return the situation with values that the user did not state, chosen so that the run fits."""
        defaults = tuple(name for name in self.defaults if name not in values)
        return replace(self, **values, defaults=defaults, chosen=(*self.chosen, *values))

    def derive(self, **values: Any) -> Situation:
        """Return the situation with additional derived values."""
        return replace(
            self, **values, derived=(*(name for name in self.derived if name not in values), *values),
            defaults=tuple(name for name in self.defaults if name not in values),
        )  # fmt: skip

    def withdraw(self, *names: str) -> Situation:
        """Return the situation without some derived values; names of other values are ignored."""
        withdrawn = [name for name in names if name in self.derived]
        derived = tuple(name for name in self.derived if name not in withdrawn)
        return replace(self, **dict.fromkeys(withdrawn), derived=derived)

    @property
    def sharding(self) -> str | None:
        """Return the sharding in PyTorch, one of SHARDINGS; None on one GPU."""
        return _SHARDED_BY[self.shard] if self.gpus > 1 else None


SITUATION_DEFAULTS: FactValues = asdict(Situation())


class Interval(Struct, frozen=True):
    """Interval of an uncertain size, in bytes."""

    low: Bytes
    expected: Bytes
    high: Bytes


class MemoryLine(Struct, frozen=True):
    """Line of the memory breakdown."""

    part: str
    bytes: Bytes | None  # size when fully allocated
    how: str  # description of the calculation
    at_peak: Bytes | None = field(default=None, name="at_peak_bytes")  # size at peak memory
    interval: Interval | None = None  # interval of the size at peak memory


class MemoryEstimate(Struct, frozen=True):
    """Memory on one GPU, in bytes. `total` is the peak memory, None if the shape of the network is unknown."""

    weights: int | None  # including the fp32 copy of sharded mixed precision
    gradients: int | None
    optimizer: int | None
    activations: int | None  # tensors saved for backward, including the logits
    overhead: int | None  # at peak memory: copies, temporaries, communication buffers, batch, CUDA context
    total: int | None
    model_states: int | None  # weights, gradients and optimizer state; does not require the shape
    available: int | None
    fits: bool | None  # None if the available memory is within the interval
    breakdown: tuple[MemoryLine, ...]
    interval: Interval | None = None  # interval of `total`
    intervals: Mapping[str, Interval] = {}  # intervals of the sizes above, by name
    allocated: int | None = None  # expected torch.cuda.max_memory_allocated()
    reserved: int | None = None  # expected torch.cuda.max_memory_reserved()
    peak: str | None = None  # phase of the training step with the peak memory
    basis: str = "none"  # origin of the shape: exact, typical of the size, or none
    pageable: int = 0  # bytes of optimizer state that can be paged to host memory
    host: int = 0  # bytes in host memory of one process: what is offloaded, and at most what can be paged


class MaxModelSize(Struct, frozen=True):
    """Largest model that fits with an optimizer, and the run for which it does."""

    optimizer: str = field(name="id")
    bytes_per_parameter: float
    max_params: int
    micro_batch: int = 1
    seq_len: int | None = None  # None, like `image_size`, if activations are unknown and a share is reserved for them
    image_size: int | None = None
    checkpointing: str = "none"
    gpus: int = 1
    shard: str = "none"


class Fit(Struct, frozen=True):
    """Memory of a run with another optimizer."""

    id: str
    optimizer_bytes: Bytes | None
    total: Bytes | None = field(name="total_bytes")
    model_states: Bytes | None = field(name="known_bytes")  # weights, gradients and optimizer state
    fits: bool | None
    largest_micro_batch: int | None  # samples
    longest_sequence: int | None = field(name="longest_seq_len")  # tokens per sample
    basis: str = "derived"  # derived, measured, or card if fake tensors cannot run its step
    # Whether it is known to fail or to compute a different result with the sharding of the run.
    breaks: bool = field(default=False, name="breaks_sharded")
    pageable: Bytes = field(default=0, name="pageable_bytes")  # optimizer state that can be paged to host memory


class Fix(Struct, frozen=True):
    """Change in a chain of changes that makes a run fit."""

    rule: str
    change: Mapping[str, FactValue]
    saves: int = field(name="saves_bytes")  # additional memory without this change
    needs: int = field(name="needs_bytes")  # memory per GPU after the whole chain
    pageable: int = field(name="pageable_bytes")  # additional optimizer state that can be paged to host memory
    instead: Mapping[str, FactValue]  # stated values that the change replaces
    costs: str
    cite: tuple[str, ...]


class Collective(Struct, frozen=True):
    """Collective operation of all GPUs, and how often an optimizer step runs it."""

    operation: str  # all-reduce, all-gather, reduce-scatter or broadcast
    of: str  # weights, updated (trained weights) or gradients
    when: str
    bytes: Bytes  # size of the complete tensor
    times: int  # per optimizer step
    sent: Bytes = field(name="sent_bytes")  # bytes sent by each GPU per optimizer step, with a ring algorithm


class Traffic(Struct, frozen=True):
    """Communication of each GPU in an optimizer step."""

    sent: Bytes = field(name="sent_bytes")  # bytes sent by each GPU
    passes: int  # micro-batches per optimizer step
    collectives: tuple[Collective, ...]
    note: str | None  # how other sharding implementations differ
    cite: tuple[str, ...]


class Scale(Struct, frozen=True):
    """Memory and communication of the run on another number of GPUs."""

    gpus: int
    optimizer_bytes: Bytes  # optimizer state per GPU
    master_bytes: Bytes = field(name="master_copy_bytes")  # sharded fp32 copy of the weights, per GPU
    total: Bytes | None = field(name="total_bytes")
    fits: bool | None
    micro_batch: int
    largest_micro_batch: int | None
    sent: Bytes = field(name="sent_bytes")  # bytes sent by each GPU per optimizer step
    pageable: Bytes = field(default=0, name="pageable_bytes")  # optimizer state that can be paged to host memory


class Scaling(Struct, frozen=True):
    """Effect of more GPUs on memory and communication."""

    sample_bytes: int | None  # added to the total by one more sample in the micro-batch; None for an unknown shape
    # Number of GPUs from which on doubling it saves less than one more sample requires; None without sharded state.
    enough: int | None = field(name="enough_gpus")
    scales: tuple[Scale, ...]  # in ascending order of GPUs


class MemoryAnswer(Struct, frozen=True):
    """Memory estimate of a run, the largest inputs that fit, and changes that make it fit."""

    situation: Situation
    optimizer: str
    memory: MemoryEstimate
    largest_micro_batch: int | None  # samples
    longest_sequence: int | None  # tokens per sample
    optimizers: tuple[Fit, ...]  # in ascending order of memory
    fixes: tuple[tuple[Fix, ...], ...]  # chains of changes, the cheapest first
    measured: float | None = None  # duration of the traced estimate in seconds; None for the analytic estimate
    traffic: Traffic | None = None  # None on one GPU
    scaling: Scaling | None = None  # None without sharding
    largest_micro_batch_by_gpu: Mapping[str, int] = {}  # by GPU id, for common GPUs; empty with a memory limit
