"""Matrix products with weights: linear layers, their adapters, convolutions."""

from __future__ import annotations

from math import prod

from optadvise.memory.autograd import AutogradGraph, OperationCost, SizedTensor
from optadvise.memory.operations.elementwise import add, cast, cast_for_product, scale
from optadvise.memory.operations.pooling import compute_output_side
from optadvise.memory.operations.registry import operation
from optadvise.memory.records import HALF, Weight


@operation()
def linear(
    graph: AutogradGraph, x: SizedTensor, *, out: int, bias: int = 0, tied: int = 0, transposed: int = 0,
    target: str = "",
) -> SizedTensor:  # fmt: skip
    """Multiply the last axis by a weight, and add a bias.

    Args:
        tied: The weight is the embedding's.
        transposed: The weight is stored as (input, output).
        target: Short name for adapter targets; empty for a head.
    """
    mode, width = graph.mode, x.shape[-1]
    sides = (width, out) if transposed else (out, width)
    gradient = _add_linear_weights(graph, sides, out, bias, tied, "matrix" if target else "head")
    copies = out * width * mode.compute_itemsize if mode.caches_copies else 0
    product_input = cast_for_product(graph, x)
    y = graph.allocate_product((*x.shape[:-1], out), mode.get_product_itemsize(x.itemsize))
    unpacked = out * width * HALF if mode.quantized and target else 0
    saved = (product_input,) if gradient else ()
    cost = OperationCost(
        scratch=unpacked, backward_scratch=unpacked, weight_copies=copies, weight_gradient=gradient,
        weight_gradient_scratch=copies if gradient else 0,
        gradient_is_view=product_input is x and len(x.shape) > 2,
    )  # fmt: skip
    y = graph.record(y, (x,), saved, cost)
    if not saved and product_input is not x:
        graph.free_unused(product_input)
    return _add_adapter(graph, x, y, target) if mode.lora_rank and target else y


def _add_linear_weights(graph: AutogradGraph, sides: tuple[int, int], out: int, bias: int, tied: int, kind: str) -> int:
    """Register a linear layer's weights and return the bytes of their gradients."""
    mode = graph.mode
    if not tied:
        return graph.add_weight(sides, kind)[0] + (graph.add_weight((out,), "vector")[0] if bias else 0)
    bias_gradient = graph.add_weight((out,), "vector")[0] if bias else 0
    # The embedding adds its gradient to that of a tied weight and accounts for the sum.
    return bias_gradient if mode.frozen else prod(sides) * mode.weight_itemsize


@operation()
def linear_qkv(graph: AutogradGraph, x: SizedTensor, *, q: int, kv: int, target: str = "") -> SizedTensor:
    """Compute queries, keys and values in one product."""
    return linear(graph, x, out=q + 2 * kv, target=target)


@operation()
def project(graph: AutogradGraph, x: SizedTensor, *, out: int) -> SizedTensor:
    """Multiply to another width; return the tensor itself if it has this width."""
    return x if x.shape[-1] == out else linear(graph, x, out=out, target="project")


@operation()
def conv(
    graph: AutogradGraph, x: SizedTensor, *, out: int, kernel: int = 1, stride: int = 1, groups: int = 1,
    bias: int = 0, padding: int = -1,
) -> SizedTensor:  # fmt: skip
    """Apply a square convolution; saves its input.

    Args:
        x: An image, channels first.
        kernel: Side of the kernel in pixels.
        stride: Stride in pixels.
        padding: Pixels on each side; -1 keeps the size at stride 1.
    """
    mode, (batch, channels, height, width) = graph.mode, x.shape
    gradient, size = graph.add_weight((out, channels // groups, kernel, kernel), "matrix")
    gradient += graph.add_weight((out,), "vector")[0] if bias else 0
    rim = kernel // 2 if padding < 0 else padding
    sides = compute_output_side(height, kernel, stride, rim), compute_output_side(width, kernel, stride, rim)
    product_input = cast_for_product(graph, x)
    y = graph.allocate_product((batch, out, *sides), mode.get_product_itemsize(x.itemsize))
    copies = size * mode.compute_itemsize // mode.weight_itemsize if mode.caches_copies else 0
    cost = OperationCost(
        weight_copies=copies, weight_gradient=gradient, weight_gradient_scratch=copies if gradient else 0
    )
    return graph.record(y, (x,), (product_input,), cost)


def _add_adapter(graph: AutogradGraph, x: SizedTensor, y: SizedTensor, target: str) -> SizedTensor:
    """Add the scaled output of a low-rank adapter, computed in the adapter's precision like in PEFT."""
    mode = graph.mode
    if mode.lora_targets is not None and target not in mode.lora_targets:
        return y
    out, width, rank = y.shape[-1], x.shape[-1], mode.lora_rank
    graph.weights += [Weight((rank, width), "adapter"), Weight((out, rank), "adapter")]
    # PEFT keeps the cast input alive until the layer returns; autocast casts it again.
    adapter_input = cast(graph, x, mode.adapter_itemsize)
    graph.retain(adapter_input)
    itemsize = mode.get_product_itemsize(mode.adapter_itemsize)
    low_rank = _multiply_adapter(graph, adapter_input, rank, itemsize)
    update = scale(graph, _multiply_adapter(graph, low_rank, out, itemsize))
    summed = cast(graph, add(graph, y, update), y.itemsize)
    graph.release(adapter_input)
    return summed


def _multiply_adapter(graph: AutogradGraph, x: SizedTensor, out: int, itemsize: int) -> SizedTensor:
    """Multiply with one of an adapter's matrices; saves its input."""
    mode, size = graph.mode, x.shape[-1] * out
    product_input = cast(graph, x, itemsize)
    copies = size * itemsize if mode.autocast and mode.adapter_itemsize != itemsize else 0
    cost = OperationCost(
        weight_copies=copies, weight_gradient=size * mode.adapter_itemsize, weight_gradient_scratch=copies,
        gradient_is_view=len(x.shape) > 2,
    )  # fmt: skip
    y = graph.allocate((*x.shape[:-1], out), itemsize)
    return graph.record(y, (product_input,), (product_input,), cost)
