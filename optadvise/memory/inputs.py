"""The facts of a situation that the memory estimate reads, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from msgspec import Struct

from optadvise.core.records import NetworkShape, Situation
from optadvise.memory.records import FULL, HALF, LEARNING_INPUTS, SELECTIVE, ComputeMode

_SHARDING_LEVELS = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}

# Layers that compute what others compute in several, and so get an adapter where any of these is named.
FUSED_TARGETS = {"qkv": {"q", "k", "v"}, "gate_up": {"gate", "up"}}


class MemoryInputs(Struct, frozen=True, cache_hash=True):
    """The facts that the estimate reads, so that runs that differ in others only share their results."""

    model: str | None
    params: int | None
    shape: NetworkShape | None
    method: str
    lora_rank: int | None
    lora_targets: str
    precision: str
    shard: str
    gpus: int
    batch_size: int | None
    micro_batch: int | None
    seq_len: int | None
    image_size: int | None
    checkpointing: str
    attention: str
    loss: str
    gradient_release: bool
    offload: bool

    @property
    def weight_shards(self) -> int:
        """Return the number of GPUs over which weights are sharded."""
        return self.gpus if self.shard == "zero3" else 1

    @property
    def gradient_shards(self) -> int:
        """Return the number of GPUs over which gradients are sharded."""
        return self.gpus if _SHARDING_LEVELS[self.shard] >= 2 else 1

    @property
    def state_shards(self) -> int:
        """Return the number of GPUs over which optimizer state is sharded."""
        return self.gpus if _SHARDING_LEVELS[self.shard] >= 1 else 1

    @property
    def micro_batches(self) -> int:
        """Return the micro-batches of an optimizer step on one GPU; an unknown micro-batch is one sample."""
        return -(-(self.batch_size or 1) // ((self.micro_batch or 1) * self.gpus))

    @property
    def accumulates(self) -> bool:
        """Return whether an optimizer step accumulates the gradients of several micro-batches."""
        return self.micro_batches > 1

    @property
    def has_sharded_master(self) -> bool:
        """Return whether an fp32 copy of the weights is sharded with the state (ZeRO, FSDP in mixed precision)."""
        return self.method == "full" and self.shard != "none" and self.precision.startswith("amp")

    @property
    def adapter_itemsize(self) -> int:
        """Return the bytes of an element of an adapter."""
        return HALF if self.precision == "bf16" else FULL


ESTIMATE_FACTS = frozenset({*MemoryInputs.__struct_fields__, "vram_bytes"})
_facts_of = attrgetter(*MemoryInputs.__struct_fields__)  # the fastest way to copy fields of one name, in their order


def select_memory_inputs(situation: Situation) -> MemoryInputs:
    """Return the facts of a situation that the estimate reads."""
    return MemoryInputs(*_facts_of(situation))


def derive_compute_mode(inputs: MemoryInputs, flags: frozenset[str]) -> ComputeMode:
    """Return how a run's operations are computed."""
    weight_itemsize, compute_itemsize, autocast = _precision(inputs)
    flags = flags | _run_flags(inputs)
    if inputs.method == "full":
        return ComputeMode(
            weight_itemsize=weight_itemsize, compute_itemsize=compute_itemsize, autocast=autocast, flags=flags
        )
    return ComputeMode(
        weight_itemsize=FULL if inputs.precision == "fp32" else HALF, compute_itemsize=compute_itemsize,
        autocast=autocast, frozen=True, quantised=inputs.method == "qlora", lora_rank=inputs.lora_rank or 0,
        lora_targets=None if inputs.lora_targets == "all" else _with_fused(inputs.lora_targets.split(",")),
        adapter_itemsize=inputs.adapter_itemsize, flags=flags,
    )  # fmt: skip


def _precision(inputs: MemoryInputs) -> tuple[int, int, bool]:
    """Return the bytes of a weight's element, of one in matrix products, and whether autocast is on."""
    if inputs.precision == "fp32":
        return FULL, FULL, False
    if inputs.precision == "bf16" or inputs.has_sharded_master:
        return HALF, HALF, False
    return FULL, HALF, True


def _run_flags(inputs: MemoryInputs) -> frozenset[str]:
    switches = {
        "eager": inputs.attention == "eager",
        SELECTIVE: inputs.checkpointing == "selective",
        "chunked": inputs.loss == "chunked",
        # `enable_input_require_grads`, as everyone does who checkpoints a frozen network.
        LEARNING_INPUTS: inputs.method != "full" and inputs.checkpointing != "none",
    }
    return frozenset(name for name, is_on in switches.items() if is_on)


def _with_fused(targets: Sequence[str]) -> frozenset[str]:
    fused = (name for name, parts in FUSED_TARGETS.items() if not parts.isdisjoint(targets))
    return frozenset({*targets, *fused})
