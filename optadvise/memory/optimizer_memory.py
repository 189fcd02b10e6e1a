"""Memory of an optimizer on one GPU: state, and temporaries of its step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod

from msgspec import Struct

from optadvise.core.caching import cached
from optadvise.core.cards import Implementation, Optimizer, StateTensor
from optadvise.core.records import NetworkShape
from optadvise.core.units import show_bytes, show_count
from optadvise.memory.inputs import MemoryInputs, derive_compute_mode
from optadvise.memory.model_memory import explain_division, explain_shard
from optadvise.memory.network_size import NetworkSize, build_network_tensors, find_network_size, list_trained_weights
from optadvise.memory.optimizer_state import (
    compute_paged_bytes,
    compute_paged_bytes_per_parameter,
    compute_shared_state_bytes,
    compute_state_bytes,
    compute_state_bytes_per_parameter,
    list_state_tensors,
)
from optadvise.memory.records import FULL, HALF, ComputeMode, Weight
from optadvise.memory.rules import MemoryRules
from optadvise.memory.sharding import assign_whole_weights, count_elements


class _State(Struct, frozen=True):
    """Bytes of optimizer state on one GPU."""

    bytes: int
    bytes_high: int
    paged: int  # in managed memory
    explanation: str


class Scratch(Struct, frozen=True):
    """Temporary bytes of one optimizer step."""

    bytes: int
    bytes_high: int
    explanation: str


class OptimizerMemory(Struct, frozen=True):
    """Bytes that an optimizer adds on one GPU."""

    state: int  # on the GPU or the host
    state_high: int
    state_explanation: str
    scratch: Scratch
    paged: int  # state in managed memory, which can be paged to the host

    @property
    def paged_high(self) -> int:
        """Return the bytes of state in managed memory at the high end, of which the share is the same."""
        return self.state_high * self.paged // self.state if self.state else 0


@cached(8192)
def estimate_optimizer_memory(rules: MemoryRules, inputs: MemoryInputs, optimizer: str) -> OptimizerMemory:
    """Return the memory of an optimizer on one GPU.

    Args:
        inputs: A run of known size.
    """
    size = find_network_size(rules, inputs)
    assert size is not None, "the memory of an optimizer requires a known size"
    return estimate_optimizer_on_network(rules, inputs, optimizer, size)


def estimate_optimizer_on_network(
    rules: MemoryRules, inputs: MemoryInputs, optimizer: str, size: NetworkSize
) -> OptimizerMemory:
    """Return the memory of an optimizer on one GPU for a network."""
    card = rules.optimizer(optimizer)
    weights = size.trained_weights if size.trained_shard is None else size.trained_shard
    if weights is None:
        state = _estimate_state_by_count(rules, inputs, card, size)
    else:
        state = _estimate_state_by_weight(rules, inputs, card, size, weights)
    place = "; in host memory" if inputs.offload else _explain_paging(card, state)
    return OptimizerMemory(
        state=state.bytes, state_high=state.bytes_high, state_explanation=state.explanation + place,
        scratch=_add_gradient_copies(rules, inputs, size, _estimate_scratch(card.implementations[0], inputs, size)),
        paged=state.paged,
    )  # fmt: skip


def _find_dtype(inputs: MemoryInputs) -> str:
    return "bfloat16" if inputs.precision == "bf16" else "float32"


def _explain_paging(card: Optimizer, state: _State) -> str:
    """Return which part of the state can be paged to host memory; empty for an optimizer without paging."""
    if not card.paged:
        return ""
    if not state.paged:
        return "; not paged, as every tensor is small"
    is_all = show_bytes(state.paged) == show_bytes(state.bytes)
    large = "" if is_all else f"{show_bytes(state.paged)} in large tensors "
    return f"; {large}can be paged to host memory"


# -- state ---------------------------------------------------------------------------------------------------------


def _estimate_state_by_count(rules: MemoryRules, inputs: MemoryInputs, card: Optimizer, size: NetworkSize) -> _State:
    """Return the state for a network of unknown shape."""
    dtype, shards = _find_dtype(inputs), inputs.state_shards
    per_parameter = compute_state_bytes_per_parameter(list_state_tensors(card), dtype)
    total = round(per_parameter * size.trained_params)
    companion = _find_companion(rules, card)
    is_table = card.implementations[0].tensors == "table"  # nearly all parameters, where tables are trained apart
    if companion is not None and not size.counts.adapter_params and not is_table:
        other = compute_state_bytes_per_parameter(list_state_tensors(companion), dtype)
        matrices = size.counts.matrix_params
        total = round(per_parameter * matrices + other * (size.params - matrices))
        per_parameter = total / size.trained_params  # on average
    trained = f"{show_count(size.trained_params)} trained parameters{explain_division(shards)}"
    paged = round(compute_paged_bytes_per_parameter(list_state_tensors(card), dtype) * size.trained_params)
    return _State(
        bytes=total // shards, bytes_high=total // shards, paged=paged // shards,
        explanation=f"{per_parameter:.2f} bytes × {trained}",
    )  # fmt: skip


def _estimate_state_by_weight(
    rules: MemoryRules, inputs: MemoryInputs, card: Optimizer, size: NetworkSize, weights: Counter[Weight]
) -> _State:
    """Return the state of trained weights, summed over tensors."""
    dtype, shards = _find_dtype(inputs), inputs.state_shards
    total = sum(n * compute_state_bytes(_list_state(rules, card, w), w.shape, dtype) for w, n in weights.items())
    paged = sum(n * compute_paged_bytes(_list_state(rules, card, w), w.shape, dtype) for w, n in weights.items())
    total += compute_shared_state_bytes(list_state_tensors(card))
    high = total + _count_wide_embeddings(rules, card, weights, dtype)
    per_parameter = total / max(count_elements(weights), 1)
    explanation = f"{per_parameter:.2f} bytes × {explain_shard(size, shards)} trained parameters"
    if size.trained_shard is None:
        total, high, paged = total // shards, high // shards, paged // shards
    if shards > 1 and inputs.gradient_shards == 1 and inputs.shape is not None:  # only the state is sharded
        mode = derive_compute_mode(inputs, build_network_tensors(rules, inputs.shape).network.flags)
        largest = compute_max_rank_state(rules, card.id, inputs.shape, mode, shards, dtype)
        high = max(high, largest)
        explanation += f"; up to {show_bytes(largest)} with ZeroRedundancyOptimizer, which assigns whole tensors"
    return _State(bytes=total, bytes_high=high, paged=paged, explanation=explanation)


def _find_companion(rules: MemoryRules, card: Optimizer) -> Optimizer | None:
    """Return the optimizer for weights that a card does not support; None if it supports all."""
    if card.companion is None or card.implementations[0].tensors is None:
        return None
    return rules.optimizer(card.companion.optimizer)


def _list_state(rules: MemoryRules, card: Optimizer, weight: Weight) -> tuple[StateTensor, ...]:
    """Return the state tensors of one weight: of the companion, if the optimizer does not support the weight."""
    kinds = ("embedding",) if card.implementations[0].tensors == "table" else ("matrix", "adapter")
    companion = None if weight.kind in kinds else _find_companion(rules, card)
    return list_state_tensors(card if companion is None else companion)


def _count_wide_embeddings(rules: MemoryRules, card: Optimizer, weights: Counter[Weight], dtype: str) -> int:
    """Return the additional bytes of embeddings with the 32-bit state of the card's parent optimizer."""
    if not card.wide_embeddings:
        return 0
    wide = card
    while wide.wide_embeddings:
        wide = rules.optimizer(wide.parents[0])
    states = list_state_tensors(wide), list_state_tensors(card)
    differences = (
        n * (compute_state_bytes(states[0], w.shape, dtype) - compute_state_bytes(states[1], w.shape, dtype))
        for w, n in weights.items()
        if w.kind == "embedding"
    )
    return sum(differences)


@cached(1024)
def compute_max_rank_state(
    rules: MemoryRules, optimizer: str, shape: NetworkShape, mode: ComputeMode, ranks: int, dtype: str
) -> int:
    """Return the largest state of a rank in bytes under ZeroRedundancyOptimizer, which assigns whole weights.

    Args:
        optimizer: Id of the optimizer; a companion assigns its weights separately.
    """
    card = rules.optimizer(optimizer)
    states = {weight: _list_state(rules, card, weight) for weight in list_trained_weights(rules, shape, mode)}
    costs = {weight: compute_state_bytes(state, weight.shape, dtype) for weight, state in states.items()}
    by_card = frozenset(weight.kind for weight, state in states.items() if state == list_state_tensors(card))
    others = frozenset(weight.kind for weight in states) - by_card
    totals: Counter[int] = Counter()
    for kinds in (by_card, others):
        for rank, weights in enumerate(_assign_weights(rules, shape, mode, ranks, kinds)):
            totals[rank] += sum(n * costs[weight] for weight, n in weights.items())
    return max(totals.values()) + compute_shared_state_bytes(list_state_tensors(card))


@cached(64)
def _assign_weights(
    rules: MemoryRules, shape: NetworkShape, mode: ComputeMode, ranks: int, kinds: frozenset[str]
) -> list[Counter[Weight]]:
    trained = list_trained_weights(rules, shape, mode)
    return assign_whole_weights(Counter({w: n for w, n in trained.items() if w.kind in kinds}), ranks)


# -- the step ------------------------------------------------------------------------------------------------------


def _estimate_scratch(implementation: Implementation, inputs: MemoryInputs, size: NetworkSize) -> Scratch:
    """Return the temporaries of an implementation's step: for all weights at once, or for the largest."""
    itemsize = HALF if inputs.precision == "bf16" else FULL
    if inputs.offload:
        return Scratch(bytes=0, bytes_high=0, explanation="on the host")
    if not implementation.scratch_all:
        return _estimate_scratch_of_largest(implementation, inputs, size, itemsize)
    shard = size.count_largest_shard(inputs.state_shards)
    copies = round(implementation.scratch_all * itemsize * shard)
    bytes_each = f"{implementation.scratch_all * itemsize:g} bytes × {show_count(shard)}"
    explanation = f"{bytes_each} (foreach, all tensors at once)"
    if implementation.compiled:
        explanation = f"none if compiled, as on GPUs; otherwise {explanation}"
        return Scratch(bytes=0, bytes_high=copies, explanation=explanation)
    if implementation.fused:
        return Scratch(bytes=0, bytes_high=copies, explanation=f"none with fused=True, {explanation} by default")
    return Scratch(bytes=copies, bytes_high=copies, explanation=explanation)


def _add_gradient_copies(rules: MemoryRules, inputs: MemoryInputs, size: NetworkSize, scratch: Scratch) -> Scratch:
    """Add the fp32 copies of a rank's gradients, if the library that shards makes them."""
    if not inputs.copies_gradients(rules.settings.find_engine(inputs.engine)):
        return scratch
    copies = size.count_largest_shard(inputs.state_shards) * FULL
    explanation = f"fp32 copies of gradients: {FULL} bytes × {explain_shard(size, inputs.state_shards)}"
    return Scratch(
        bytes=scratch.bytes + copies, bytes_high=scratch.bytes_high + copies,
        explanation=f"{explanation}; {scratch.explanation}",
    )  # fmt: skip


def _estimate_scratch_of_largest(
    implementation: Implementation, inputs: MemoryInputs, size: NetworkSize, itemsize: int
) -> Scratch:
    largest = (size.counts.largest_tensor or size.trained_params // 100) // inputs.state_shards
    if size.trained_shard is not None:
        largest = _count_largest_elements(size.trained_shard)
    copies = round(implementation.scratch_largest * itemsize * largest)
    bytes_each = f"{implementation.scratch_largest * itemsize:g} B per element"
    explanation = f"{bytes_each} of the largest tensor (one tensor at a time)"
    if implementation.compiled:
        return Scratch(bytes=0, bytes_high=copies, explanation=f"none if compiled, as on GPUs; otherwise {explanation}")
    return Scratch(bytes=copies, bytes_high=copies, explanation=explanation)


def _count_largest_elements(weights: Iterable[Weight]) -> int:
    return max((prod(weight.shape) for weight in weights), default=0)
