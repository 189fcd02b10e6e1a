"""Simulation of a block's backward pass: gradients are allocated and freed, saved tensors are released."""

from __future__ import annotations

from optadvise.memory.autograd import AutogradGraph, Node, SizedTensor
from optadvise.memory.records import LiveMemory, keep_largest


def simulate_backward(graph: AutogradGraph, out: SizedTensor, *, release: bool = False) -> list[LiveMemory]:
    """Run the backward pass of a graph and return the bytes at the moments that can be its peak.

    Args:
        graph: The recorded forward pass; its saved tensors are released and its weights' gradients counted.
        out: The block's output, whose gradient already exists.
        release: Whether each weight is updated and its gradient freed as soon as it is computed.

    Returns:
        Bytes by kind, with the weight gradients of this block only.
    """
    backward = _BackwardPass(graph, out)
    for node in reversed(graph.nodes):
        backward.run(node, release=release)
    return keep_largest(backward.moments)


class _BackwardPass:
    """The gradients of activations that are live while the graph is traversed in reverse order."""

    def __init__(self, graph: AutogradGraph, out: SizedTensor) -> None:
        self.moments: list[LiveMemory] = []
        self._graph = graph
        self._gradients = {id(out): 0}  # index of its gradient by tensor
        self._sizes, self._references = [out.nbytes], [1]  # by gradient
        self._views: set[int] = set()  # gradients that are views of matrix products
        self._working = out.nbytes  # bytes of all live gradients of activations

    def run(self, node: Node, *, release: bool) -> None:
        """Run one operation's backward, if its output has a gradient."""
        gradient = self._gradients.pop(id(node.out), None)
        if gradient is None:
            return
        cost = node.cost
        computed = [(tensor, self._input_gradient(node, tensor, gradient)) for tensor in node.inputs]
        # The gradient of a half-precision copy is cast to the weight's type after the saved tensors are released.
        casts = bool(cost.weight_copies and cost.weight_gradient)
        self._add_moment(cost.backward_scratch + cost.weight_gradient_scratch, 0 if casts else cost.weight_gradient)
        summed = self._accumulate(node, computed)
        self._graph.weight_copies -= cost.weight_copies
        for storage in node.saved:
            self._graph.release_storage(storage)
        self._working -= self._release(gradient)
        if summed:
            self._add_moment(summed, cost.weight_gradient)
            self._working -= summed
        if casts:
            self._add_moment(cost.weight_gradient_scratch, cost.weight_gradient)
        if not release:
            self._graph.weight_gradients += cost.weight_gradient

    def _input_gradient(self, node: Node, tensor: SizedTensor, gradient: int) -> int:
        """Return the index of an input's gradient: the output's if it is reused, otherwise a new one."""
        if node.cost.reuses_gradient and self._sizes[gradient] == tensor.nbytes:
            self._references[gradient] += 1
            return gradient
        self._sizes.append(tensor.nbytes)
        self._references.append(1)
        self._working += tensor.nbytes
        return len(self._sizes) - 1

    def _accumulate(self, node: Node, computed: list[tuple[SizedTensor, int]]) -> int:
        """Add gradients to existing ones; return the bytes of a sum that needs a new tensor.

        A sum is computed in place unless both terms are views.
        """
        summed = 0
        for tensor, gradient in computed:
            key = id(tensor)
            if node.cost.gradient_is_view:
                self._views.add(gradient)
            if key not in self._gradients:
                self._gradients[key] = gradient
                continue
            if gradient in self._views and self._gradients[key] in self._views:
                summed = self._sizes[gradient]
                self._views.discard(self._gradients[key])
            self._working -= 0 if summed else self._release(gradient)
        return summed

    def _release(self, gradient: int) -> int:
        """Drop a reference to a gradient and return the freed bytes."""
        self._references[gradient] -= 1
        return 0 if self._references[gradient] else self._sizes[gradient]

    def _add_moment(self, scratch: int, weight_gradient: int) -> None:
        graph = self._graph
        self.moments.append(
            LiveMemory(
                activations=graph.live_bytes,
                weight_copies=graph.weight_copies,
                working=self._working + scratch,
                weight_gradients=graph.weight_gradients + weight_gradient,
            )
        )
