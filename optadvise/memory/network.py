"""A network as blocks of operations with dimensions: its weights, tensor by tensor, and what one training step holds.

The descriptions are data (`rules/networks/`). Identical blocks are walked once and counted as often as they repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple, replace

from optadvise.memory.block_program import run
from optadvise.memory.operations import Tape
from optadvise.memory.records import FULL, Batch, Mode, Moment, Shape, StepMemory, Weight

SELECTIVE = "selective"  # the flag with which checkpointed blocks keep what their matrix products gave
_INDEX = 8  # bytes of a token's index, and of its label


class Block(Struct, frozen=True):
    """A stretch of a network that may repeat."""

    name: str
    program: tuple[Any, ...]
    repeat: int
    dims: Mapping[str, int]  # the network's, with the block's own
    takes: str = "x"  # what its program calls what comes in: x, or input for the batch itself
    gives: str | None = None  # the name under which later blocks may look at its output
    checkpointed: bool = False  # checkpointing recomputes it
    head: bool = False


class Network(Struct, frozen=True):
    """A network of known shape."""

    name: str
    blocks: tuple[Block, ...]
    images: bool  # takes images of three channels; otherwise tokens
    flags: frozenset[str]  # of its configuration


class _Incoming(Struct, frozen=True):
    """What flows from block to block."""

    shape: Shape
    item: int
    grad: bool
    kept: bool  # its maker keeps it

    @property
    def bytes(self) -> int:
        size = self.item
        for side in self.shape:
            size *= side
        return size


class _Profile(Struct, frozen=True):
    """What a block does to memory, apart from what was there before."""

    kept: int
    copies: int
    forward: Moment
    backward: Moment
    gradients: int
    out: _Incoming
    weights: tuple[Weight, ...]


def _profile(block: Block, mode: Mode, start: Mapping[str, _Incoming], *, checkpoint: bool, release: bool) -> _Profile:
    """Walk one block; what comes in and is kept elsewhere weighs nothing here."""

    def walk(record: bool) -> tuple[Tape, Any]:
        tape = Tape(mode, block.dims, record=record)
        variables = {name: tape.given(given.shape, given.item, given.grad, given.kept) for name, given in start.items()}
        return tape, run(block.program, tape, variables)

    tape, out = walk(record=True)
    forward, copies = tape.peak, tape.copies
    tape.drop(out)
    kept, keeps_output = tape.alive, tape.keeps(out)
    backward = tape.backward(out, release=release)
    if checkpoint:
        coming = next(iter(start.values()))
        again = replace(forward, working=forward.working + out.elements * out.item)
        backward = max(backward, again, key=lambda moment: moment.total)
        forward = walk(record=False)[0].peak
        kept, keeps_output = 0 if coming.kept else coming.bytes, False
        kept += tape.products if SELECTIVE in mode.flags else 0
    going = _Incoming(out.shape, out.item, out.grad, keeps_output)
    return _Profile(kept, copies, forward, backward, tape.gradients, going, tuple(tape.weights))


def walk(
    network: Network, mode: Mode, batch: Batch, *, checkpoint: bool, release: bool
) -> list[tuple[Block, _Profile]]:
    """Return each block with its profile, in order; a first repeat that takes something else than the rest is split."""
    side = batch.length
    entering = _Incoming((batch.samples, 3, side, side) if network.images else (batch.samples, side), FULL, False, True)
    shared: dict[str, _Incoming] = {}
    flowing, found = entering, []
    for block in network.blocks:
        coming, left = entering if block.takes == "input" else flowing, block.repeat
        while left:
            profile = _profile(
                block, mode, {block.takes: coming, **shared}, checkpoint=checkpoint and block.checkpointed,
                release=release,
            )  # fmt: skip
            flowing = profile.out
            # Frozen weights give no gradient to what comes in, so that the first repeat keeps less.
            alike = astuple(flowing)[1:] == astuple(coming)[1:] or block.takes == "input"
            times = left if alike else 1
            found.append((replace(block, repeat=times), profile))
            coming, left = flowing, left - times
        if block.gives is not None:
            flowing = shared[block.gives] = replace(flowing, kept=True)
    return found


def weights(
    network: Network, mode: Mode | None = None, only: Callable[[Block], bool] = lambda _: True
) -> Counter[Weight]:
    """Return every weight tensor of a network with how often it is there.

    Args:
        network: The network.
        mode: With which adapters, if any.
        only: Which blocks count.
    """
    counts: Counter[Weight] = Counter()
    length = 224 if network.images else 8
    mode = mode or Mode(flags=network.flags)
    for block, profile in walk(network, mode, Batch(1, length), checkpoint=False, release=False):
        for weight in profile.weights if only(block) else ():
            counts[weight] += block.repeat
    return counts


def step(network: Network, mode: Mode, batch: Batch, *, checkpoint: bool = False, release: bool = False,
         accumulated: bool = False, split: int = 1) -> StepMemory:  # fmt: skip
    """Return what one forward and backward pass holds at its highest moment.

    Args:
        network: The network.
        mode: Precision, method and switches.
        batch: Samples of one pass, and their length.
        checkpoint: Keep only each checkpointed block's input, and recompute the rest.
        release: Step each weight as soon as it has its gradient (optimizer in backward).
        accumulated: Gradients of earlier passes are there already.
        split: Over how many GPUs the gradients are, of which this one keeps a share.

    Example:
        See `tests/test_networks_transformers.py`, which holds this against fake tensors.
    """
    both = walk(network, mode, batch, checkpoint=checkpoint, release=release)
    total = sum(p.gradients * b.repeat for b, p in both)
    there = total // split if accumulated else 0
    best, phase, in_head = Moment(), "forward", False

    def consider(moment: Moment, kept: int, copies: int, gradients: int, name: str, head: bool) -> None:
        nonlocal best, phase, in_head
        moment = moment.plus(kept, copies)
        made = (moment.gradients + gradients) // split
        moment = replace(moment, gradients=there if accumulated else made)
        if moment.total > best.total:
            best, phase, in_head = moment, name, head

    kept = copies = 0
    for block, profile in both:
        for earlier in {0, block.repeat - 1}:
            consider(
                profile.forward, kept + profile.kept * earlier, copies + profile.copies * earlier, 0, "forward",
                block.head,
            )  # fmt: skip
        kept += profile.kept * block.repeat
        copies += profile.copies * block.repeat
    body = sum(p.kept * b.repeat for b, p in both if not b.head)
    logits, held, later = kept - body, copies, 0
    for block, profile in reversed(both):
        kept -= profile.kept * block.repeat
        # A recomputed block makes its half-precision weights anew; the first ones went when autocast ended.
        thrown = checkpoint and mode.autocast
        copies = 0 if thrown else copies - profile.copies * block.repeat
        for done in {0, block.repeat - 1}:
            left = block.repeat - 1 - done
            consider(
                profile.backward, kept + profile.kept * left, copies + (0 if thrown else profile.copies * left),
                later + (0 if release else profile.gradients * done), "backward", block.head,
            )  # fmt: skip
        later += 0 if release else profile.gradients * block.repeat
    size = batch.samples * (batch.length**2 * 3 * FULL if network.images else batch.length * 2 * _INDEX)
    return StepMemory(best, phase, in_head, body, logits, held, total, size)
