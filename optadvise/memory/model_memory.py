"""Bytes of weights, gradients and communication buffers on one GPU.

fp32 has 4 bytes of weights and 4 bytes of gradients per parameter, pure bf16 has 2 and 2. AMP has fp32 weights, and
half-precision copies of the matrices in the autocast cache. Sharded mixed precision follows ZeRO: half-precision
weights and gradients, and an fp32 master copy that is sharded with the state.
"""

from __future__ import annotations

from msgspec import Struct

from optadvise.core.units import show_bytes, show_count
from optadvise.memory.inputs import MemoryInputs
from optadvise.memory.network_size import NetworkSize
from optadvise.memory.records import FULL, HALF
from optadvise.rulebase.memory_rules import MemorySettings

# NF4 with double quantization: 4 bits and 0.127 bits of scales per weight (QLoRA, section 3).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


class _Weights(Struct, frozen=True):
    """Weights on one GPU."""

    bytes: int
    bytes_high: int
    itemsize: int  # of the trained weights, and of their gradients
    frozen_bytes: int  # on all GPUs
    explanation: str


class Buffers(Struct, frozen=True):
    """Communication buffers on one GPU."""

    bytes: int
    bytes_high: int
    explanation: str


class ModelMemory(Struct, frozen=True):
    """Bytes on one GPU, without the optimizer and activations."""

    weights: int
    weights_high: int
    weights_explanation: str
    master: int  # fp32 master copy, sharded with the state
    master_explanation: str
    gradients: int
    gradients_explanation: str
    host_gradients: int  # fp32 gradients in host memory
    buffers: Buffers
    unsharded_weights: int  # on all GPUs together
    unsharded_trained: int  # trained weights; their gradients have the same size


def estimate_model_memory(inputs: MemoryInputs, size: NetworkSize, settings: MemorySettings) -> ModelMemory:
    """Return the bytes of weights, gradients and buffers on one GPU."""
    weights = _estimate_all_weights(inputs, size) if inputs.method == "full" else _estimate_frozen_weights(inputs, size)
    has_master, state_shards = inputs.has_sharded_master, inputs.state_shards
    trained = size.count_padded_params(inputs.weight_shards) * weights.itemsize
    gradient_shards = inputs.gradient_shards
    gradients = size.count_largest_shard(gradient_shards) * weights.itemsize
    gradients_explanation = f"{weights.itemsize} bytes × {explain_shard(size, gradient_shards)}"
    offloads_gradients = inputs.offloads_gradients(settings.find_engine(inputs.engine))
    if offloads_gradients:
        gradients, gradients_explanation = 0, "in host memory once they are reduced"
    return ModelMemory(
        weights=weights.bytes,
        weights_high=weights.bytes_high,
        weights_explanation=weights.explanation,
        master=size.count_largest_shard(state_shards) * FULL if has_master else 0,
        master_explanation=(f"{FULL} bytes (fp32) × {explain_shard(size, state_shards)}" if has_master else ""),
        gradients=gradients,
        gradients_explanation=gradients_explanation,
        host_gradients=size.count_largest_shard(gradient_shards) * FULL if offloads_gradients else 0,
        buffers=_estimate_buffers(inputs, size, settings, weights.itemsize),
        unsharded_weights=weights.frozen_bytes + trained,
        unsharded_trained=trained,
    )


def _estimate_all_weights(inputs: MemoryInputs, size: NetworkSize) -> _Weights:
    """Return the weights of a run that trains all weights."""
    is_half = inputs.precision == "bf16" or inputs.has_sharded_master
    itemsize, shards = HALF if is_half else FULL, inputs.weight_shards
    total = size.count_largest_shard(shards) * itemsize
    dtype = inputs.precision.removeprefix("amp-") if is_half else "fp32"
    return _Weights(
        bytes=total,
        bytes_high=total,
        itemsize=itemsize,
        frozen_bytes=0,
        explanation=f"{itemsize} bytes ({dtype}) × {explain_shard(size, shards)}",
    )


def _estimate_frozen_weights(inputs: MemoryInputs, size: NetworkSize) -> _Weights:
    """Return the weights of a run that trains adapters."""
    shards = inputs.weight_shards
    itemsize = FULL if inputs.precision == "fp32" else HALF
    quantized = size.counts.matrix_params if inputs.method == "qlora" else 0
    # Preparation for 4-bit training often casts other layers (norms, embeddings, the head) to fp32, and some programs
    # keep the whole base in fp32 under autocast.
    itemsize_high = FULL if quantized or inputs.precision.startswith("amp") else itemsize
    frozen = round(quantized * NF4_BYTES) + (size.params - quantized) * itemsize
    frozen_high = round(quantized * NF4_BYTES) + (size.params - quantized) * itemsize_high
    if size.shard_params is not None:
        frozen, frozen_high = (n * size.shard_params * shards // size.params for n in (frozen, frozen_high))
    adapters = size.count_largest_shard(shards) * inputs.adapter_itemsize
    explanation = f"{itemsize} bytes × {show_count(size.params)} frozen"
    if quantized:
        explanation = f"0.516 B NF4 × {show_count(quantized)} in linear layers"
        explanation += f" + {itemsize} bytes × {show_count(size.params - quantized)} in other layers"
    explanation += f" + {inputs.adapter_itemsize} bytes × {show_count(size.counts.adapter_params)} adapter parameters"
    if inputs.shape is not None and inputs.shape.has_experts:
        explanation += " (none on the experts)"
    return _Weights(
        bytes=frozen // shards + adapters, bytes_high=frozen_high // shards + adapters,
        itemsize=inputs.adapter_itemsize, frozen_bytes=frozen,
        explanation=explanation + explain_division(shards),
    )  # fmt: skip


def _estimate_buffers(inputs: MemoryInputs, size: NetworkSize, settings: MemorySettings, itemsize: int) -> Buffers:
    """Return the communication buffers of the run's sharding."""
    if inputs.gpus == 1 and inputs.shard == "none":
        return Buffers(bytes=0, bytes_high=0, explanation="")
    trained = size.trained_params
    if inputs.shard == "none":
        explanation = f"DDP buckets: {itemsize} bytes × {show_count(trained)}, in addition to the gradients"
        return Buffers(bytes=trained * itemsize, bytes_high=trained * itemsize, explanation=explanation)
    bucket = min(settings.bucket_elements, trained) * itemsize
    engine = settings.find_engine(inputs.engine)
    if inputs.shard == "zero3":
        return _estimate_gathered_layers(inputs, size, settings, itemsize, bucket)
    count = "one gradient bucket" if engine.buckets == 1 else f"{engine.buckets:g} gradient buckets"
    return Buffers(
        bytes=round(engine.buckets * bucket),
        bytes_high=round(engine.buckets_high * bucket),
        explanation=f"{count}: {itemsize} bytes × {show_count(bucket // itemsize)}",
    )


def _estimate_gathered_layers(
    inputs: MemoryInputs, size: NetworkSize, settings: MemorySettings, itemsize: int, bucket: int
) -> Buffers:
    """Return the weights that FSDP gathers at a time, and the gradients of one layer, at most one bucket."""
    compute_itemsize = FULL if inputs.precision == "fp32" else HALF
    counts = size.counts
    layer = int((counts.params - counts.params_outside_layers) / counts.layers) if counts.layers else counts.params
    gathered = min(settings.gathered_layers * layer, size.params) * compute_itemsize
    gradients = min(bucket, layer * itemsize)
    # If the root module is an FSDP unit, its weights stay gathered, and its gradients are not sharded until the last
    # micro-batch.
    root_itemsize = compute_itemsize + (0 if size.counts.adapter_params else itemsize)
    root = size.counts.params_outside_layers * root_itemsize
    explanation = (
        f"{settings.gathered_layers} gathered layers: {compute_itemsize} bytes × "
        f"{show_count(gathered // compute_itemsize)}"
        f"; gradients of one layer: {itemsize} bytes × {show_count(gradients // itemsize)}"
    )
    if root:
        explanation += f"; {show_bytes(root)} more if the root module is an FSDP unit"
    return Buffers(bytes=gathered + gradients, bytes_high=gathered + gradients + root, explanation=explanation)


def explain_division(shards: int) -> str:
    """Return a division by the number of GPUs as text; empty for one GPU."""
    return f" / {shards} GPUs" if shards > 1 else ""


def explain_shard(size: NetworkSize, shards: int) -> str:
    """Return the trained parameters per GPU as text; for an uneven split, the largest shard."""
    shard = size.count_largest_shard(shards)
    if shard * shards > 1.01 * size.trained_params:
        even = show_count(size.trained_params // shards)
        return f"{show_count(shard)} (largest of {shards} shards, even split: {even})"
    return f"{show_count(size.trained_params)}{explain_division(shards)}"
