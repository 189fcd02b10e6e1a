"""Facts of a situation that the memory estimate reads, and figures derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from msgspec import Struct

from optadvise.core.records import NetworkShape, Situation
from optadvise.memory.records import FULL, HALF, LEARNING_INPUTS, SELECTIVE, ComputeMode
from optadvise.rulebase.memory_rules import EngineMemory

_SHARDING_LEVELS = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}

# Fused layers by name; a fused layer gets an adapter if any of its parts is a target.
FUSED_TARGETS = {"qkv": {"q", "k", "v"}, "gate_up": {"gate", "up"}}


class MemoryInputs(Struct, frozen=True, cache_hash=True):
    """Facts that the estimate reads; runs that differ only in other facts share cached results."""

    model: str | None
    params: int | None
    shape: NetworkShape | None
    task: str
    method: str
    lora_rank: int | None
    lora_targets: str
    precision: str
    shard: str
    engine: str | None
    gpus: int
    batch_size: int | None
    micro_batch: int | None
    grad_accum: int | None
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

    def offloads_gradients(self, engine: EngineMemory) -> bool:
        """Return whether sharded gradients are moved to the host as soon as they are reduced."""
        return self.offload and engine.offloads_gradients and _SHARDING_LEVELS[self.shard] >= 2

    def copies_gradients(self, engine: EngineMemory) -> bool:
        """Return whether the step on the GPU reads fp32 copies of half-precision gradients."""
        return self.has_sharded_master and engine.copies_gradients and not self.offload

    @property
    def micro_batches(self) -> int:
        """Return the micro-batches per optimizer step on one GPU; an unknown micro-batch is one sample."""
        return self.grad_accum or -(-(self.batch_size or 1) // ((self.micro_batch or 1) * self.gpus))

    @property
    def accumulates(self) -> bool:
        """Return whether an optimizer step accumulates the gradients of several micro-batches."""
        return self.micro_batches > 1

    @property
    def has_sharded_master(self) -> bool:
        """Return whether an fp32 master copy is sharded with the state (ZeRO, FSDP in mixed precision)."""
        return self.method == "full" and self.shard != "none" and self.precision.startswith("amp")

    @property
    def adapter_itemsize(self) -> int:
        """Return the bytes of an element of an adapter."""
        return HALF if self.precision == "bf16" else FULL


ESTIMATE_FACTS = frozenset({*MemoryInputs.__struct_fields__, "vram_bytes"})
_get_facts = attrgetter(*MemoryInputs.__struct_fields__)  # the fastest way to copy fields of equal names


def select_memory_inputs(situation: Situation) -> MemoryInputs:
    """Return the facts of a situation that the estimate reads."""
    return MemoryInputs(*_get_facts(situation))


def derive_compute_mode(inputs: MemoryInputs, flags: frozenset[str]) -> ComputeMode:
    """Return the precision, adapters and flags with which a run computes operations."""
    weight_itemsize, compute_itemsize, autocast = _find_precision(inputs)
    flags = flags | _list_run_flags(inputs)
    if inputs.method == "full":
        return ComputeMode(
            weight_itemsize=weight_itemsize, compute_itemsize=compute_itemsize, autocast=autocast, flags=flags
        )
    return ComputeMode(
        weight_itemsize=FULL if inputs.precision == "fp32" else HALF, compute_itemsize=compute_itemsize,
        autocast=autocast, frozen=True, quantized=inputs.method == "qlora", lora_rank=inputs.lora_rank or 0,
        lora_targets=None if inputs.lora_targets == "all" else _add_fused_targets(inputs.lora_targets.split(",")),
        adapter_itemsize=inputs.adapter_itemsize, flags=flags,
    )  # fmt: skip


def _find_precision(inputs: MemoryInputs) -> tuple[int, int, bool]:
    """Return the bytes per element of weights and of matrix products, and whether autocast is on."""
    if inputs.precision == "fp32":
        return FULL, FULL, False
    if inputs.precision == "bf16" or inputs.has_sharded_master:
        return HALF, HALF, False
    return FULL, HALF, True


def _list_run_flags(inputs: MemoryInputs) -> frozenset[str]:
    switches = {
        "eager": inputs.attention == "eager",
        SELECTIVE: inputs.checkpointing == "selective",
        "chunked": inputs.loss == "chunked",
        # Checkpointing a frozen network requires `enable_input_require_grads`.
        LEARNING_INPUTS: inputs.method != "full" and inputs.checkpointing != "none",
    }
    return frozenset(name for name, is_on in switches.items() if is_on)


def _add_fused_targets(targets: Sequence[str]) -> frozenset[str]:
    fused = (name for name, parts in FUSED_TARGETS.items() if not parts.isdisjoint(targets))
    return frozenset({*targets, *fused})
