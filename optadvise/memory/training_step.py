"""Simulation of one training step of a network: bytes at the peak, and bytes saved for backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.memory.network import Block, BlockMemory, Network, simulate_blocks
from optadvise.memory.records import FULL, ComputeMode, LiveMemory, MicroBatch, StepMemory

_INDEX_BYTES = 8  # of a token id, and of its label


class StepSettings(Struct, frozen=True):
    """Settings of one micro-batch, without its precision."""

    checkpoint: bool = False  # save only the input of checkpointed blocks
    release: bool = False  # update each weight during backward
    accumulated: bool = False  # gradients of earlier micro-batches exist
    gradient_shards: int = 1  # GPUs over which gradients are sharded
    low_factor: float = 1.0  # of the interval of activations


_DEFAULT_SETTINGS = StepSettings()


class _Moment(Struct, frozen=True):
    """A moment of a step that can be its peak."""

    live: LiveMemory
    phase: str  # forward or backward
    in_head: bool


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
    moments = [*_list_forward_moments(blocks), *_list_backward_moments(blocks, saved, copies, settings, drops_copies)]
    peak, floor = _Moment(LiveMemory(), "forward", in_head=False), LiveMemory()
    for moment in moments:
        live = _shard_gradients(moment.live, gradients, settings)
        if live.total > peak.live.total:
            peak = replace(moment, live=live)
        floor = max(floor, live, key=lambda live: live.scale(settings.low_factor))
    sample = batch.length**2 * 3 * FULL if network.images else batch.length * 2 * _INDEX_BYTES
    return StepMemory(
        peak=peak.live,
        peak_phase=peak.phase,
        peak_in_head=peak.in_head,
        activations=body,
        logits=saved - body,
        weight_copies=copies,
        weight_gradients=gradients,
        input_bytes=batch.samples * sample,
        floor=floor,
        end=_shard_gradients(moments[-1].live, gradients, settings),
    )


def _shard_gradients(live: LiveMemory, all_gradients: int, settings: StepSettings) -> LiveMemory:
    """Replace the weight gradients by the shard of one GPU."""
    gradients = all_gradients if settings.accumulated else live.weight_gradients
    return replace(live, weight_gradients=gradients // settings.gradient_shards)


def _add_bytes(live: LiveMemory, activations: int, copies: int, gradients: int = 0) -> LiveMemory:
    return LiveMemory(
        activations=live.activations + activations,
        weight_copies=live.weight_copies + copies,
        working=live.working,
        weight_gradients=live.weight_gradients + gradients,
    )


def _list_forward_moments(blocks: Sequence[tuple[Block, BlockMemory]]) -> Iterator[_Moment]:
    """Yield the moments of the forward pass: the first and the last repetition of every block."""
    saved = copies = 0
    for block, memory in blocks:
        for earlier in {0, block.repeat - 1}:
            live = _add_bytes(
                memory.forward_peak, saved + memory.saved * earlier, copies + memory.weight_copies * earlier
            )
            yield _Moment(live=live, phase="forward", in_head=block.head)
        saved += memory.saved * block.repeat
        copies += memory.weight_copies * block.repeat


def _list_backward_moments(
    blocks: Sequence[tuple[Block, BlockMemory]], saved: int, copies: int, settings: StepSettings, drops_copies: bool
) -> Iterator[_Moment]:
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
            live = _add_bytes(
                memory.backward_peak, saved + memory.saved * remaining, copies + block_copies * remaining,
                gradients + block_gradients * finished,
            )  # fmt: skip
            yield _Moment(live=live, phase="backward", in_head=block.head)
        gradients += block_gradients * block.repeat
