"""Embeddings of tokens, positions and class tokens."""

from __future__ import annotations

from optadvise.memory.autograd import AutogradGraph, OperationCost, SizedTensor
from optadvise.memory.operations.registry import operation
from optadvise.memory.records import LEARNING_INPUTS


@operation()
def embedding(
    graph: AutogradGraph, x: SizedTensor, *, rows: int, width: int, extra: int = 0, tied: int = 0, shared: int = 0
) -> SizedTensor:
    """Look up a row for each index; the weight's gradient is dense.

    Args:
        rows: Rows of the weight.
        width: Elements of a row.
        extra: Additional rows.
        tied: The head uses the same weight, whose gradient is added to this one.
        shared: An earlier embedding has the same weight.
    """
    is_first = not graph.weights
    gradient, size = graph.add_weight((rows + extra, width), "embedding")
    if shared:
        graph.weights.pop()
    out = graph.allocate((*x.shape, width), graph.mode.weight_itemsize)
    scratch = size if (tied or shared) and gradient else 0
    cost = OperationCost(weight_gradient=0 if scratch else gradient, weight_gradient_scratch=scratch)
    graph.record(out, (), cost=cost)
    if is_first and LEARNING_INPUTS in graph.mode.flags:  # a leaf, which the graph keeps alive
        out.requires_grad = True
        graph.retain(out)
        graph.save(out)
    return out


@operation()
def position_embedding(graph: AutogradGraph, x: SizedTensor, *, rows: int, width: int) -> SizedTensor:
    """Look up a learned vector for each position, the same for every sample."""
    gradient, _ = graph.add_weight((rows, width), "embedding")
    out = graph.allocate((1, x.shape[1], width), graph.mode.weight_itemsize)
    return graph.record(out, (), cost=OperationCost(weight_gradient=gradient))


@operation()
def add_position_embedding(graph: AutogradGraph, x: SizedTensor, *, rows: int, extra: int = 0) -> SizedTensor:
    """Add a learned vector to each position."""
    gradient, _ = graph.add_weight((1, rows + extra, x.shape[-1]), "embedding")
    out = graph.allocate(x.shape, max(x.itemsize, graph.mode.weight_itemsize))
    return graph.record(out, (x,), cost=OperationCost(reuses_gradient=True, weight_gradient=gradient))


@operation()
def relative_position_bias(graph: AutogradGraph, x: SizedTensor, *, rows: int, heads: int) -> SizedTensor:
    """Compute learned biases of attention scores once, save them for every layer, and return x."""
    gradient, _ = graph.add_weight((rows, heads), "embedding")
    pairs, itemsize = x.shape[1] * x.shape[1], graph.mode.weight_itemsize
    biases, indices = graph.allocate((heads, pairs), itemsize), graph.allocate((pairs,), 8)
    out = SizedTensor(x.storage, x.shape, x.itemsize, x.requires_grad)
    cost = OperationCost(
        reuses_gradient=True, weight_gradient=gradient, weight_gradient_scratch=heads * pairs * itemsize
    )
    return graph.record(out, (x,), (biases, indices), cost)


@operation()
def prepend_tokens(graph: AutogradGraph, x: SizedTensor, *, count: int = 1) -> SizedTensor:
    """Prepend learned tokens to a copy of a sequence."""
    gradient, _ = graph.add_weight((1, count, x.shape[-1]), "vector")
    out = graph.allocate((x.shape[0], x.shape[1] + count, x.shape[2]), x.itemsize)
    return graph.record(out, (x,), cost=OperationCost(weight_gradient=gradient))
