"""Cross-entropy of logits, plain and chunked."""

from __future__ import annotations

from optadvise.memory.autograd import AutogradGraph, OperationCost, SizedTensor
from optadvise.memory.operations.elementwise import cast
from optadvise.memory.operations.registry import operation
from optadvise.memory.records import FULL


@operation()
def cross_entropy_fp32(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Compute cross-entropy over the last axis in full precision; saves the log-softmax."""
    logits = cast(graph, x, FULL)
    log_softmax, out = graph.allocate(x.shape, FULL), graph.allocate((1,), FULL)
    # Backward allocates the gradients of the log-probabilities and of the logits; the latter is the input's gradient.
    return graph.record(out, (logits,), (log_softmax,), OperationCost(backward_scratch=logits.nbytes))


@operation()
def cross_entropy(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Compute cross-entropy in the precision of the logits, in full precision under autocast."""
    if graph.mode.autocast or x.itemsize == FULL:
        return cross_entropy_fp32(graph, x)
    log_softmax, out = graph.allocate(x.shape, x.itemsize), graph.allocate((1,), x.itemsize)
    return graph.record(out, (x,), (log_softmax,), OperationCost(backward_scratch=x.nbytes))


@operation()
def chunked_cross_entropy(
    graph: AutogradGraph, x: SizedTensor, *, out: int, tied: int = 0, bias: int = 0, chunks: int = 8
) -> SizedTensor:
    """Compute logits and their cross-entropy one chunk of the sequence at a time, and again in backward.

    Args:
        x: Output of the last layer, which is saved.
        out: Number of classes, such as the size of the vocabulary.
        tied: Whether the weight is the embedding's.
        bias: Whether a bias is added.
        chunks: Number of chunks.
    """
    mode, width = graph.mode, x.shape[-1]
    gradient, _ = graph.add_weight((out, width), "head")
    if tied:
        graph.weights.pop()
    gradient += graph.add_weight((out,), "vector")[0] if bias else 0
    itemsize = mode.get_product_itemsize(x.itemsize)
    rows = x.elements // width // chunks
    logits, logits_fp32 = rows * out * itemsize, rows * out * FULL
    # The peak is either the log-softmax of a chunk with two gradients, or its weight gradient with the old and the new
    # sum of weight gradients (not added in place); under autocast, the copy of the weight counts instead of a sum.
    backward = 3 * logits_fp32 + (rows * width * itemsize if mode.caches_copies else 0)
    if gradient:
        backward = max(backward, out * width * itemsize + (logits if mode.caches_copies else gradient))
    copies = out * width * mode.compute_itemsize if mode.caches_copies else 0
    cost = OperationCost(
        scratch=logits + logits_fp32 * (2 if itemsize != FULL else 1), backward_scratch=backward, weight_copies=copies,
        weight_gradient=gradient, weight_gradient_scratch=copies if gradient else 0,
    )  # fmt: skip
    return graph.record(graph.allocate((1,), FULL), (x,), (x,), cost)
