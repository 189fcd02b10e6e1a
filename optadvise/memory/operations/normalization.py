"""Normalization layers that run in one kernel."""

from __future__ import annotations

from optadvise.memory.autograd import AutogradGraph, OperationCost, SizedTensor
from optadvise.memory.operations.elementwise import cast_to_fp32_by_autocast
from optadvise.memory.operations.layout import channels_first, channels_last
from optadvise.memory.operations.registry import operation
from optadvise.memory.records import FULL


@operation()
def layer_norm(graph: AutogradGraph, x: SizedTensor, *, bias: int = 1, width: int = 0, affine: int = 1) -> SizedTensor:
    """Normalize the last axis, in full precision under autocast; saves its input.

    Args:
        bias: Whether it has a bias, if it is affine.
        width: Elements that are normalized together; 0 for the last axis.
        affine: Whether it has weights.
    """
    count = width or x.shape[-1]
    gradient = graph.add_weight((count,), "vector")[0] if affine else 0
    gradient += graph.add_weight((count,), "vector")[0] if affine and bias else 0
    normalized = cast_to_fp32_by_autocast(graph, x)
    statistics = graph.allocate((x.elements // count,), 2 * FULL)
    out = graph.allocate(x.shape, normalized.itemsize)
    return graph.record(out, (x,), (normalized, statistics), OperationCost(weight_gradient=gradient))


@operation()
def layer_norm_channels(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Normalize the channels of an image, which is viewed channels-last and back."""
    return channels_first(graph, layer_norm(graph, channels_last(graph, x)))


@operation()
def batch_norm(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Normalize each channel over the batch; saves its input."""
    width = x.shape[1]
    gradient = graph.add_weight((width,), "vector")[0] + graph.add_weight((width,), "vector")[0]
    return graph.record(graph.allocate(x.shape, x.itemsize), (x,), (x,), OperationCost(weight_gradient=gradient))
