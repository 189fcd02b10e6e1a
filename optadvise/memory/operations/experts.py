"""Operations of mixtures of experts."""

from __future__ import annotations

from optadvise.memory.autograd import AutogradGraph, OperationCost, SizedTensor
from optadvise.memory.operations.registry import operation


@operation()
def top_k(graph: AutogradGraph, x: SizedTensor, *, top: int) -> SizedTensor:
    """Select the largest values of the last axis; saves their indices."""
    shape = (*x.shape[:-1], top)
    return graph.record(graph.allocate(shape, x.itemsize), (x,), (graph.allocate(shape, 8),))


@operation()
def dispatch_tokens(graph: AutogradGraph, x: SizedTensor, *, top: int) -> SizedTensor:
    """Copy every token once for each of its experts, sorted by expert; saves the order."""
    shape = (x.shape[0], x.shape[1] * top, x.shape[2])
    return graph.record(graph.allocate(shape, x.itemsize), (x,), (graph.allocate(shape[:2], 8),))


@operation()
def grouped_linear(graph: AutogradGraph, x: SizedTensor, *, out: int, count: int) -> SizedTensor:
    """Multiply each expert's weight with its tokens, in the precision of the weights, also under autocast."""
    gradient, _ = graph.add_weight((count, out, x.shape[-1]), "matrix")
    itemsize = graph.mode.weight_itemsize
    product_input = x if x.itemsize == itemsize else graph.allocate(x.shape, itemsize, x.requires_grad)
    y = graph.allocate_product((*x.shape[:-1], out), itemsize)
    return graph.record(y, (x,), (product_input,) if gradient else (), OperationCost(weight_gradient=gradient))


@operation()
def combine_experts(graph: AutogradGraph, y: SizedTensor, w: SizedTensor, x: SizedTensor, *, top: int) -> SizedTensor:
    """Sum the weighted outputs of each token's experts, in the precision of x."""
    order = graph.allocate(y.shape[:2], 8)
    size = y.elements * max(y.itemsize, w.itemsize)
    out = graph.allocate((y.shape[0], y.shape[1] // top, y.shape[2]), x.itemsize)
    return graph.record(out, (y, w), (y, w, order), OperationCost(scratch=2 * size, backward_scratch=2 * size))
