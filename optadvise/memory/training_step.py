"""Simulation of one training step of a network: bytes at the peak, and bytes saved for backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.memory.network import Block, BlockMemory, Network, simulate_blocks
from optadvise.memory.records import FULL, ComputeMode, LiveMemory, MicroBatch, Moment, StepMemory, keep_largest

FORWARD, BACKWARD, LOSS = "the forward pass", "the backward pass", "the loss and its gradient"  # names of moments
_INDEX_BYTES = 8  # of a token id, and of its label


class StepSettings(Struct, frozen=True):
    """Settings of one micro-batch, without its precision."""

    checkpoint: bool = False  # save only the input of checkpointed blocks
    release: bool = False  # update each weight during backward
    accumulated: bool = False  # gradients of earlier micro-batches exist
    gradient_shards: int = 1  # GPUs over which gradients are sharded
    offloads_gradients: bool = False  # reduced gradients are in host memory


_DEFAULT_SETTINGS = StepSettings()


def simulate_step(
    network: Network, mode: ComputeMode, batch: MicroBatch, settings: StepSettings = _DEFAULT_SETTINGS
) -> StepMemory:
    """Return the bytes of one forward and backward pass."""
    blocks = simulate_blocks(network, mode, batch, checkpoint=settings.checkpoint, release=settings.release)
    gradients = sum(memory.weight_gradients * block.repeat for block, memory in blocks)
    body = sum(memory.saved * block.repeat for block, memory in blocks if not block.head)
    saved = sum(memory.saved * block.repeat for block, memory in blocks)
    copies = sum(memory.weight_copies * block.repeat for block, memory in blocks)
    # Recomputed blocks cast their weights again; the first copies are freed when autocast ends.
    drops_copies = settings.checkpoint and mode.autocast
    names: dict[LiveMemory, str] = {}
    passes = (_list_forward_moments(blocks), _list_backward_moments(blocks, saved, copies, settings, drops_copies))
    for name, moments in zip((FORWARD, BACKWARD), passes, strict=True):
        for block, live in moments:
            sharded = _shard_gradients(live, gradients, settings)
            if block.head:
                names.setdefault(_separate_logits(sharded, body), LOSS)
            else:
                names.setdefault(sharded, name)
    largest = sorted(keep_largest(names), key=lambda live: -live.total)
    sample = batch.length**2 * 3 * FULL if network.images else batch.length * 2 * _INDEX_BYTES
    return StepMemory(
        moments=tuple(Moment(live=live, name=names[live]) for live in largest),
        activations=body,
        logits=saved - body,
        weight_copies=copies,
        weight_gradients=gradients,
        input_bytes=batch.samples * sample,
    )


def _shard_gradients(live: LiveMemory, all_gradients: int, settings: StepSettings) -> LiveMemory:
    """Replace the weight gradients by the shard of one GPU."""
    if settings.offloads_gradients:
        return replace(live, weight_gradients=0)
    gradients = all_gradients if settings.accumulated else live.weight_gradients
    return replace(live, weight_gradients=gradients // settings.gradient_shards)


def _separate_logits(live: LiveMemory, body: int) -> LiveMemory:
    """Separate the bytes of the head from the activations that the body saved for backward."""
    activations = min(live.activations, body)
    return replace(live, activations=activations, logits=live.activations - activations + live.working, working=0)


def _add_bytes(live: LiveMemory, activations: int, copies: int, gradients: int = 0) -> LiveMemory:
    return LiveMemory(
        activations=live.activations + activations,
        weight_copies=live.weight_copies + copies,
        working=live.working,
        weight_gradients=live.weight_gradients + gradients,
    )


def _list_forward_moments(blocks: Sequence[tuple[Block, BlockMemory]]) -> Iterator[tuple[Block, LiveMemory]]:
    """Yield the moments of the forward pass: the first and the last repetition of every block."""
    saved = copies = 0
    for block, memory in blocks:
        for earlier in {0, block.repeat - 1}:
            for live in memory.forward_moments:
                yield block, _add_bytes(live, saved + memory.saved * earlier, copies + memory.weight_copies * earlier)
        saved += memory.saved * block.repeat
        copies += memory.weight_copies * block.repeat


def _list_backward_moments(
    blocks: Sequence[tuple[Block, BlockMemory]], saved: int, copies: int, settings: StepSettings, drops_copies: bool
) -> Iterator[tuple[Block, LiveMemory]]:
    """Yield the moments of the backward pass: the first and the last repetition of every block.

    Args:
        blocks: Blocks in the order of the forward pass.
        saved: Bytes of all activations saved for backward.
        copies: Bytes of the autocast cache.
        settings: Settings of the micro-batch.
        drops_copies: Whether the autocast cache is freed after the forward pass.
    """
    gradients = 0
    for block, memory in reversed(blocks):
        block_copies = 0 if drops_copies else memory.weight_copies
        block_gradients = 0 if settings.release else memory.weight_gradients
        saved -= memory.saved * block.repeat
        copies = 0 if drops_copies else copies - memory.weight_copies * block.repeat
        for finished in {0, block.repeat - 1}:
            remaining = block.repeat - 1 - finished
            for live in memory.backward_moments:
                yield block, _add_bytes(
                    live, saved + memory.saved * remaining, copies + block_copies * remaining,
                    gradients + block_gradients * finished,
                )  # fmt: skip
        gradients += block_gradients * block.repeat
