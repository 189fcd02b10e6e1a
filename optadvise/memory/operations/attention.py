"""Attention, eager and in one kernel, and rotary positions."""

from __future__ import annotations

from optadvise.memory.autograd import AutogradGraph, OperationCost, SizedTensor
from optadvise.memory.operations.elementwise import cast_for_product
from optadvise.memory.operations.registry import operation
from optadvise.memory.records import FULL


@operation()
def rope(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Rotate by positions: two products with constants in the precision of the embedding, and their sum."""
    out = graph.allocate(x.shape, max(x.itemsize, graph.mode.weight_itemsize))
    return graph.record(out, (x,), cost=OperationCost(scratch=2 * out.nbytes, backward_scratch=2 * out.nbytes))


@operation()
def attention_scores(
    graph: AutogradGraph, q: SizedTensor, k: SizedTensor, *, heads: int, groups: int = 1
) -> SizedTensor:
    """Multiply queries and keys of every head; repeated keys are contiguous already, others are copied."""
    queries = _make_contiguous(graph, q)
    keys = cast_for_product(graph, k) if groups > 1 else _make_contiguous(graph, k)
    out = graph.allocate((q.shape[0], heads, q.shape[1], k.shape[1]), graph.mode.get_product_itemsize(q.itemsize))
    return graph.record(out, (q, k), (queries, keys))


@operation()
def weighted_values(graph: AutogradGraph, p: SizedTensor, v: SizedTensor, *, groups: int = 1) -> SizedTensor:
    """Multiply attention probabilities with values."""
    probabilities = cast_for_product(graph, p)
    values = cast_for_product(graph, v) if groups > 1 else _make_contiguous(graph, v)
    out = graph.allocate_product((p.shape[0], p.shape[2], v.shape[-1]), graph.mode.get_product_itemsize(v.itemsize))
    return graph.record(out, (p, v), (probabilities, values))


@operation()
def flash_attention(
    graph: AutogradGraph, q: SizedTensor, k: SizedTensor, v: SizedTensor, *, heads: int, biased: int = 0
) -> SizedTensor:
    """Compute attention in one kernel; saves its inputs, its output, a number per row, and a copy of a learned bias."""
    inputs = tuple(cast_for_product(graph, x) for x in (q, k, v))
    out = graph.allocate_product(q.shape, graph.mode.get_product_itemsize(q.itemsize))
    rows = graph.allocate((q.shape[0], heads, q.shape[1]), FULL)
    # Backward sums the queries' gradient in full precision, and computes those of shared keys for every head.
    backward = rows.elements * FULL + (0 if out.itemsize == FULL else q.elements * FULL)
    backward += 2 * q.elements * out.itemsize if k.shape[-1] < q.shape[-1] else 0
    saved = (*inputs, out, rows)
    if biased:
        bias = graph.allocate((heads, q.shape[1], k.shape[1]), out.itemsize)
        backward += q.shape[0] * bias.nbytes
        saved = (*saved, bias)
    return graph.record(out, (q, k, v), saved, OperationCost(backward_scratch=backward))


def _make_contiguous(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Return the copy that a batched product makes of heads that are interleaved."""
    return graph.allocate(x.shape, graph.mode.get_product_itemsize(x.itemsize), x.requires_grad)
