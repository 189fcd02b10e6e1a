"""Simulation of PyTorch's autograd on tensors without data, which computes the memory of one training step.

Autograd saves the tensors that the gradient of each operation needs: a matrix product saves its input, a softmax its
output, an addition nothing. An `AutogradGraph` records a block's operations on sizes alone, counts each storage once,
frees a storage without references, and then simulates the backward pass in reverse order. Peaks follow from the
operations, without fitted constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from msgspec import Struct

from optadvise.memory.records import ComputeMode, LiveMemory, Shape, Weight


class SizedTensor:
    """A tensor without data: a storage viewed in a shape."""

    __slots__ = ("itemsize", "requires_grad", "shape", "storage")

    def __init__(self, storage: int, shape: Shape, itemsize: int, requires_grad: bool) -> None:
        """View a storage.

        Args:
            requires_grad: Whether backward computes its gradient.
        """
        self.storage, self.shape, self.itemsize, self.requires_grad = storage, shape, itemsize, requires_grad

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all elements."""
        return prod(self.shape) * self.itemsize


class OperationCost(Struct, frozen=True):
    """Bytes that an operation allocates in addition to its tensors, and how gradients flow."""

    scratch: int = 0  # temporaries of its forward
    backward_scratch: int = 0  # temporaries of its backward
    weight_copies: int = 0  # half-precision copies of weights in the autocast cache, until its backward
    weight_gradient: int = 0
    weight_gradient_scratch: int = 0  # temporaries while the weights' gradients are computed
    reuses_gradient: bool = False  # the inputs share the output's gradient
    gradient_is_view: bool = (
        False  # the input gradient is a view of a matrix product, to which nothing is added in place
    )


NO_COST = OperationCost()
REUSES_GRADIENT = OperationCost(reuses_gradient=True)


class Node(Struct, frozen=True):
    """One recorded operation."""

    out: SizedTensor
    inputs: tuple[SizedTensor, ...]  # those that require a gradient
    saved: tuple[int, ...]  # storages
    cost: OperationCost


class AutogradGraph:
    """The operations of one block on tensors without data, and the bytes that are live after the last of them."""

    def __init__(self, mode: ComputeMode, dims: Mapping[str, int], *, record: bool = True) -> None:
        """Start an empty graph.

        Args:
            record: Whether tensors are saved for backward; the first forward pass of a checkpointed block saves none.
        """
        self.mode, self.dims = mode, dims
        self.weights: list[Weight] = []
        self.nodes: list[Node] = []
        self.live_bytes = 0
        self.weight_copies = 0  # bytes in the autocast cache
        self.weight_gradients = 0  # bytes
        self.product_bytes = 0  # of matrix products' outputs, which selective checkpointing saves
        self.moments: list[LiveMemory] = []  # of the forward pass
        self._record = record
        self._sizes: list[int] = []  # bytes by storage
        self._references: list[int] = []  # variables and saved tensors by storage
        self._saved: set[int] = set()

    # -- storages --------------------------------------------------------------------------------------------------

    def add_input(self, shape: Shape, itemsize: int, requires_grad: bool, *, counted_elsewhere: bool) -> SizedTensor:
        """Return a tensor that exists before the block.

        Args:
            requires_grad: Whether backward computes its gradient.
            counted_elsewhere: Whether another block saves it, so that this block does not count it.
        """
        tensor = self.allocate(shape, itemsize, requires_grad)
        if counted_elsewhere:
            self.live_bytes -= self._sizes[tensor.storage]
            self._sizes[tensor.storage] = 0
        return tensor

    def allocate(self, shape: Shape, itemsize: int, requires_grad: bool = False) -> SizedTensor:
        """Return a tensor with a new storage."""
        size = prod(shape) * itemsize
        self._sizes.append(size)
        self._references.append(0)
        self.live_bytes += size
        return SizedTensor(len(self._sizes) - 1, shape, itemsize, requires_grad)

    def allocate_product(self, shape: Shape, itemsize: int) -> SizedTensor:
        """Return the output of a matrix product or of attention, which selective checkpointing saves."""
        out = self.allocate(shape, itemsize)
        self.product_bytes += self._sizes[out.storage]
        return out

    def add_weight(self, shape: Shape, kind: str) -> tuple[int, int]:
        """Register a weight; return the bytes of its gradient (0 if frozen) and of the weight."""
        self.weights.append(Weight(shape, kind))
        size = prod(shape) * self.mode.weight_itemsize
        return (0 if self.mode.frozen else size), size

    def retain(self, tensor: SizedTensor) -> None:
        """Add a reference to the tensor's storage."""
        self._references[tensor.storage] += 1

    def release(self, tensor: SizedTensor) -> None:
        """Drop a reference to the tensor's storage."""
        self.release_storage(tensor.storage)

    def release_storage(self, storage: int) -> None:
        """Drop a reference to a storage; the last one frees it."""
        self._references[storage] -= 1
        if not self._references[storage]:
            self.live_bytes -= self._sizes[storage]

    def free_unused(self, tensor: SizedTensor) -> None:
        """Free a temporary that no variable refers to and that is not saved."""
        if not self._references[tensor.storage]:
            self._references[tensor.storage] = 1
            self.release_storage(tensor.storage)

    def save(self, tensor: SizedTensor) -> None:
        """Mark a tensor as saved for backward, so that this block counts it and the next does not."""
        self._saved.add(tensor.storage)

    def is_saved(self, tensor: SizedTensor) -> bool:
        """Return whether a tensor is saved for backward."""
        return tensor.storage in self._saved

    # -- operations ------------------------------------------------------------------------------------------------

    def record(
        self,
        out: SizedTensor,
        inputs: tuple[SizedTensor, ...],
        saved: tuple[SizedTensor, ...] = (),
        cost: OperationCost = NO_COST,
    ) -> SizedTensor:
        """Add an operation to the graph and return its output.

        Args:
            inputs: Tensors whose gradient the operation computes.
            saved: Tensors to save for backward.
        """
        self.weight_copies += cost.weight_copies
        self._add_moment(cost.scratch)
        has_weight_gradient = cost.weight_gradient or cost.weight_gradient_scratch
        out.requires_grad = bool(has_weight_gradient) or any(tensor.requires_grad for tensor in inputs)
        if out.requires_grad and self._record:
            for tensor in saved:
                self.retain(tensor)
                self.save(tensor)
            differentiable = tuple(tensor for tensor in inputs if tensor.requires_grad)
            self.nodes.append(
                Node(out=out, inputs=differentiable, saved=tuple(tensor.storage for tensor in saved), cost=cost)
            )
        for tensor in (*inputs, *saved):
            if tensor.storage != out.storage:
                self.free_unused(tensor)
        return out

    def _add_moment(self, scratch: int) -> None:
        self.moments.append(LiveMemory(activations=self.live_bytes, weight_copies=self.weight_copies, working=scratch))
