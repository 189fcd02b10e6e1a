"""What one training step keeps alive, by walking a network's operations at the level of shapes. Pure.

Autograd keeps for the backward pass what each operation needs: a matrix product its input, a softmax its output, an
addition nothing. A `Tape` runs a block's operations on sizes alone, counts each storage once, lets go of what nobody
holds any more, and then runs the backward pass in the reverse order: gradients come and go, saved tensors leave. So
peaks come from the operations and not from a formula with constants. Under autocast every matrix product casts its
input anew, and the cast copy is what is saved; that is modelled as it happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optadvise.memory.records import Mode, Moment, Shape, Weight


class Tensor:
    """A variable of a program: a storage seen in a shape."""

    __slots__ = ("grad", "item", "shape", "storage")

    def __init__(self, storage: int, shape: Shape, item: int, grad: bool) -> None:
        """Hold what operations ask of a tensor."""
        self.storage, self.shape, self.item, self.grad = storage, shape, item, grad

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for side in self.shape:
            count *= side
        return count


class _Node:
    """One recorded operation."""

    __slots__ = ("copies", "inputs", "out", "passes", "saved", "scratch", "viewed", "weight_gradient",
                 "weight_scratch")  # fmt: skip

    def __init__(self, out: Tensor, inputs: tuple[Tensor, ...], passes: bool, saved: list[int], copies: int,
                 scratch: int, weight_gradient: int, weight_scratch: int, viewed: bool) -> None:  # fmt: skip
        self.out, self.inputs, self.passes, self.saved, self.copies = out, inputs, passes, saved, copies
        self.scratch, self.weight_gradient, self.weight_scratch = scratch, weight_gradient, weight_scratch
        self.viewed = viewed


class Recorder:
    """Runs one block's program. Each public method is an operation that programs may name.

    Args of all operations are tensors first, then named numbers; they return the output tensor.
    """

    def __init__(self, mode: Mode, dims: Mapping[str, int], *, record: bool = True) -> None:
        """Start an empty tape.

        Args:
            mode: How to compute.
            dims: The network's dimensions by name.
            record: Keep for backward; a checkpointed block's first pass keeps nothing.
        """
        self.mode, self.dims, self.record = mode, dims, record
        self.weights: list[Weight] = []
        self._sizes: list[int] = []
        self._holders: list[int] = []
        self._nodes: list[_Node] = []
        self._saved: set[int] = set()
        self.alive = self.copies = self.gradients = self.products = 0
        self.peak, self._highest = Moment(), 0

    # -- storages ------------------------------------------------------------------------------------------------

    def given(self, shape: Shape, item: int, grad: bool, elsewhere: bool) -> Tensor:
        """Return a tensor that was there before the block; one that is kept elsewhere is not counted here."""
        tensor = self._new(shape, item, grad)
        if elsewhere:
            self.alive -= self._sizes[tensor.storage]
            self._sizes[tensor.storage] = 0
        return tensor

    def _new(self, shape: Shape, item: int, grad: bool) -> Tensor:
        size = item
        for side in shape:
            size *= side
        self._sizes.append(size)
        self._holders.append(0)
        self.alive += size
        return Tensor(len(self._sizes) - 1, shape, item, grad)

    def _product(self, shape: Shape, item: int) -> Tensor:
        """Return the output of a matrix product or of attention, which selective recomputation keeps."""
        out = self._new(shape, item, False)
        self.products += self._sizes[out.storage]
        return out

    def hold(self, tensor: Tensor) -> None:
        """A variable begins to name the tensor."""
        self._holders[tensor.storage] += 1

    def drop(self, tensor: Tensor) -> None:
        """A variable no longer names the tensor."""
        self._release(tensor.storage)

    def _release(self, storage: int) -> None:
        self._holders[storage] -= 1
        if not self._holders[storage]:
            self.alive -= self._sizes[storage]

    def keeps(self, tensor: Tensor) -> bool:
        """Does backward need this tensor?"""
        return tensor.storage in self._saved

    def _mark(self, scratch: int = 0) -> None:
        total = self.alive + self.copies + scratch
        if total > self._highest:
            self._highest = total
            self.peak = Moment(self.alive, self.copies, scratch)

    def _done(self, out: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...] = (), *, passes: bool = False,
              scratch: int = 0, backward: int = 0, copies: int = 0, gradient: int = 0, gradient_scratch: int = 0,
              viewed: bool = False) -> Tensor:  # fmt: skip
        """Finish an operation.

        Args:
            out: Its output.
            inputs: The tensors that get a gradient from it.
            saved: What backward needs.
            passes: The gradient of the output is handed to the inputs as it is.
            scratch: Bytes that it needs while it runs.
            backward: The same of its backward.
            copies: Bytes of weights that it holds in half precision until its backward.
            gradient: Bytes of its weights' gradients.
            gradient_scratch: Bytes while these are made.
            viewed: The inputs' gradient is a view of a product, with which no sum can be made in place.
        """
        self.copies += copies
        self._mark(scratch)
        out.grad = bool(gradient or gradient_scratch) or any(t.grad for t in inputs)
        if out.grad and self.record:
            for tensor in saved:
                self._holders[tensor.storage] += 1
                self._saved.add(tensor.storage)
            learning = tuple(t for t in inputs if t.grad)
            saves = [t.storage for t in saved]
            self._nodes.append(_Node(out, learning, passes, saves, copies, backward, gradient, gradient_scratch,
                                     viewed))  # fmt: skip
        for tensor in (*inputs, *saved):
            if tensor.storage != out.storage:
                self._forget(tensor)
        return out

    def _weight(self, shape: Shape, kind: str) -> tuple[int, int]:
        """Register a weight and return the bytes of its gradient and of its items."""
        self.weights.append(Weight(shape, kind))
        count = 1
        for side in shape:
            count *= side
        size = count * self.mode.weights
        return (0 if self.mode.frozen else size), size

    def _forget(self, tensor: Tensor) -> None:
        """Let a temporary go that nobody names or saves."""
        if not self._holders[tensor.storage]:
            self._holders[tensor.storage] = 1
            self._release(tensor.storage)

    # -- backward ------------------------------------------------------------------------------------------------

    def backward(self, out: Tensor, *, release: bool = False) -> Moment:
        """Run the backward pass and return its highest moment.

        Args:
            out: The block's output, whose gradient is there.
            release: Weights are stepped, and their gradients let go, as soon as they have one.
        """
        gradients: dict[int, int] = {id(out): 0}  # tensor -> index of its gradient
        sizes, holders = [self._bytes(out)], [1]
        working = sizes[0]
        views: set[int] = set()  # gradients that are views of products
        best = Moment()

        def consider(during: int, made: int) -> None:
            nonlocal best
            moment = Moment(self.alive, self.copies, during, self.gradients + made)
            if moment.total > best.total:
                best = moment

        for node in reversed(self._nodes):
            index = gradients.pop(id(node.out), None)
            if index is None:
                continue
            fresh: list[tuple[Tensor, int]] = []
            for tensor in node.inputs:
                if node.passes and sizes[index] == self._bytes(tensor):
                    holders[index] += 1
                    fresh.append((tensor, index))
                else:
                    sizes.append(self._bytes(tensor))
                    holders.append(1)
                    working += sizes[-1]
                    fresh.append((tensor, len(sizes) - 1))
            # The gradient of a half-precision copy is cast to the weight's after the operation let go of what it saved.
            cast = node.copies and node.weight_gradient
            consider(working + node.scratch + node.weight_scratch, 0 if cast else node.weight_gradient)
            summed = 0
            for tensor, new in fresh:
                key = id(tensor)
                if node.viewed:
                    views.add(new)
                if key not in gradients:
                    gradients[key] = new
                    continue
                # Two paths meet: the sum is made in place of one that is no view.
                if new in views and gradients[key] in views:
                    summed = sizes[new]
                    views.discard(gradients[key])
                working -= 0 if summed else self._let_go(new, sizes, holders)
            self.copies -= node.copies
            for storage in node.saved:
                self._release(storage)
            working -= self._let_go(index, sizes, holders)
            if summed:
                consider(working + summed, node.weight_gradient)
                working -= summed
            if cast:
                consider(working + node.weight_scratch, node.weight_gradient)
            if not release:
                self.gradients += node.weight_gradient
        return best

    @staticmethod
    def _bytes(tensor: Tensor) -> int:
        return tensor.elements * tensor.item

    @staticmethod
    def _let_go(index: int, sizes: Sequence[int], holders: list[int]) -> int:
        holders[index] -= 1
        return 0 if holders[index] else sizes[index]
