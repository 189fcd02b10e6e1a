"""Networks of known shape as blocks of operations, and the list of their weights.

Identical blocks are simulated once and multiplied by their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import prod

from msgspec import Struct
from msgspec.structs import replace

from optadvise.memory.autograd import AutogradGraph, SizedTensor
from optadvise.memory.backward import simulate_backward
from optadvise.memory.programs import ProgramLine, run_program
from optadvise.memory.records import FULL, SELECTIVE, ComputeMode, LiveMemory, MicroBatch, Shape, Weight, keep_largest

_LENGTH_OF_WEIGHTS = {True: 224, False: 8}  # any valid sample length (pixels or tokens) does


class Block(Struct, frozen=True):
    """A part of a network that can repeat."""

    name: str
    program: tuple[ProgramLine, ...]
    repeat: int
    dims: Mapping[str, int]  # of the network and of the block
    input: str = "x"  # variable of the block's input; `input` is the batch
    output: str | None = None  # variable that later blocks can use for its output
    checkpointed: bool = False  # checkpointing recomputes it
    head: bool = False


class Network(Struct, frozen=True):
    """A network of known shape."""

    name: str
    blocks: tuple[Block, ...]
    images: bool  # the input is images with three channels, otherwise tokens
    flags: frozenset[str]  # of its config


class BlockInput(Struct, frozen=True):
    """A tensor that one block passes to the next."""

    shape: Shape
    itemsize: int
    requires_grad: bool
    is_saved: bool  # by the block that computes it

    @property
    def nbytes(self) -> int:
        """Return the bytes of the tensor."""
        return prod(self.shape) * self.itemsize

    def is_like(self, other: BlockInput) -> bool:
        """Return whether two tensors of any shape have the same effect on a block."""
        properties = (self.itemsize, self.requires_grad, self.is_saved)
        return properties == (other.itemsize, other.requires_grad, other.is_saved)


class BlockMemory(Struct, frozen=True):
    """Bytes of a block, without those that are live before it."""

    saved: int  # activations at the end of its forward
    weight_copies: int
    forward_moments: tuple[LiveMemory, ...]  # those that can be the peak
    backward_moments: tuple[LiveMemory, ...]
    weight_gradients: int
    out: BlockInput
    weights: tuple[Weight, ...]


def simulate_blocks(
    network: Network, mode: ComputeMode, batch: MicroBatch, *, checkpoint: bool, release: bool
) -> list[tuple[Block, BlockMemory]]:
    """Simulate all blocks and return each with its memory, in order.

    Args:
        checkpoint: Whether only the input of each checkpointed block is saved.
        release: Whether each weight is updated as soon as its gradient is computed.

    Returns:
        Blocks with their memory; a block whose first repetition has another kind of input is split in two.
    """
    side = batch.length
    batch_shape = (batch.samples, 3, side, side) if network.images else (batch.samples, side)
    entering = BlockInput(batch_shape, FULL, requires_grad=False, is_saved=True)
    outputs: dict[str, BlockInput] = {}  # that later blocks can use, by name
    current, simulated = entering, []
    for block in network.blocks:
        block_input, remaining = entering if block.input == "input" else current, block.repeat
        while remaining:
            inputs = {block.input: block_input, **outputs}
            memory = _simulate_block(block, mode, inputs, checkpoint=checkpoint and block.checkpointed, release=release)
            current = memory.out
            # With frozen weights, the first repetition's input requires no gradient, so it saves less.
            times = remaining if current.is_like(block_input) or block.input == "input" else 1
            simulated.append((replace(block, repeat=times), memory))
            block_input, remaining = current, remaining - times
        if block.output is not None:
            current = outputs[block.output] = replace(current, is_saved=True)
    return simulated


def _simulate_block(
    block: Block, mode: ComputeMode, inputs: Mapping[str, BlockInput], *, checkpoint: bool, release: bool
) -> BlockMemory:
    """Simulate one block; an input that another block saves is not counted."""
    graph, out = _run_forward(block, mode, inputs, record=True)
    forward_moments, weight_copies = keep_largest(graph.moments), graph.weight_copies
    graph.release(out)
    saved, output_is_saved = graph.live_bytes, graph.is_saved(out)
    backward_moments = simulate_backward(graph, out, release=release)
    if checkpoint:
        recomputed = [replace(live, working=live.working + out.nbytes) for live in forward_moments]
        backward_moments = keep_largest([*backward_moments, *recomputed])
        forward_moments = keep_largest(_run_forward(block, mode, inputs, record=False)[0].moments)
        block_input = next(iter(inputs.values()))
        saved, output_is_saved = 0 if block_input.is_saved else block_input.nbytes, False
        saved += graph.product_bytes if SELECTIVE in mode.flags else 0
    output = BlockInput(
        shape=out.shape, itemsize=out.itemsize, requires_grad=out.requires_grad, is_saved=output_is_saved
    )
    return BlockMemory(
        saved=saved,
        weight_copies=weight_copies,
        forward_moments=tuple(forward_moments),
        backward_moments=tuple(backward_moments),
        weight_gradients=graph.weight_gradients,
        out=output,
        weights=tuple(graph.weights),
    )


def _run_forward(
    block: Block, mode: ComputeMode, inputs: Mapping[str, BlockInput], *, record: bool
) -> tuple[AutogradGraph, SizedTensor]:
    graph = AutogradGraph(mode, block.dims, record=record)
    variables = {
        name: graph.add_input(x.shape, x.itemsize, x.requires_grad, counted_elsewhere=x.is_saved)
        for name, x in inputs.items()
    }
    return graph, run_program(block.program, graph, variables)


def count_weights(
    network: Network, mode: ComputeMode | None = None, only: Callable[[Block], bool] = lambda _: True
) -> Counter[Weight]:
    """Return the weight tensors of a network with their numbers, of the blocks that `only` selects."""
    counts: Counter[Weight] = Counter()
    batch = MicroBatch(1, _LENGTH_OF_WEIGHTS[network.images])
    mode = mode or ComputeMode(flags=network.flags)
    for block, memory in simulate_blocks(network, mode, batch, checkpoint=False, release=False):
        for weight in memory.weights if only(block) else ():
            counts[weight] += block.repeat
    return counts
