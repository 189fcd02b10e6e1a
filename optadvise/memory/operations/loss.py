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
    # Backward computes the gradient of the log-probabilities, and from it that of the logits, which is the input's.
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
        x: The last layer's output, which is saved.
        out: Classes, such as tokens of the vocabulary.
        tied: The weight is the embedding's.
        chunks: Number of chunks.
    """
    mode, width = graph.mode, x.shape[-1]
    gradient, _ = graph.add_weight((out, width), "head")
    if tied:
        graph.weights.pop()
    gradient += graph.add_weight((out,), "vector")[0] if bias else 0
    itemsize = mode.find_product_itemsize(x.itemsize)
    rows = x.elements // width // chunks
    logits, logits_fp32 = rows * out * itemsize, rows * out * FULL
    # A chunk's log-softmax and two gradients; or its gradient of the weight, the sum of the others', and the new sum,
    # which is not written in place. Under autocast a copy of the weight is live instead.
    backward = 3 * logits_fp32 + (rows * width * itemsize if mode.caches_copies else 0)
    if gradient:
        backward = max(backward, out * width * itemsize + (logits if mode.caches_copies else gradient))
    copies = out * width * mode.compute_itemsize if mode.caches_copies else 0
    cost = OperationCost(
        scratch=logits + logits_fp32 * (2 if itemsize != FULL else 1), backward_scratch=backward, weight_copies=copies,
        weight_gradient=gradient, weight_gradient_scratch=copies if gradient else 0,
    )  # fmt: skip
    return graph.record(graph.allocate((1,), FULL), (x,), (x,), cost)
