"""Operations on single elements: sums, products, activation functions, softmax, dropout, casts."""

from __future__ import annotations

from optadvise.memory.autograd import REUSES_GRADIENT, AutogradGraph, OperationCost, SizedTensor
from optadvise.memory.operations.registry import operation
from optadvise.memory.records import FULL


@operation()
def add(graph: AutogradGraph, a: SizedTensor, b: SizedTensor) -> SizedTensor:
    """Add two tensors; saves nothing."""
    larger = a if a.elements >= b.elements else b
    return graph.record(graph.allocate(larger.shape, max(a.itemsize, b.itemsize)), (a, b), cost=REUSES_GRADIENT)


@operation()
def add_(graph: AutogradGraph, a: SizedTensor, b: SizedTensor) -> SizedTensor:
    """Add b to a in place; saves nothing."""
    return graph.record(SizedTensor(a.storage, a.shape, a.itemsize, a.requires_grad), (a, b), cost=REUSES_GRADIENT)


@operation()
def mul(graph: AutogradGraph, a: SizedTensor, b: SizedTensor) -> SizedTensor:
    """Multiply two tensors; each factor is saved for the other's gradient."""
    larger, smaller = (a, b) if a.elements >= b.elements else (b, a)
    saved = (*((b,) if a.requires_grad else ()), *((a,) if b.requires_grad else ()))
    out = graph.allocate(larger.shape, max(a.itemsize, b.itemsize))
    # The gradient of a factor that is broadcast is as large as the product before it is summed.
    is_broadcast = smaller.requires_grad and smaller.elements < larger.elements
    return graph.record(out, (a, b), saved, OperationCost(backward_scratch=out.nbytes if is_broadcast else 0))


@operation()
def mul_weight(graph: AutogradGraph, x: SizedTensor, *, width: int = 0) -> SizedTensor:
    """Multiply by a vector of weights with the width of the last axis, or with `width` elements."""
    gradient, _ = graph.add_weight((width or x.shape[-1],), "vector")
    out = graph.allocate(x.shape, max(x.itemsize, graph.mode.weight_itemsize))
    # The product with the incoming gradient is as large as x before it is summed to a vector.
    cost = OperationCost(weight_gradient=gradient, weight_gradient_scratch=x.nbytes if gradient else 0)
    return graph.record(out, (x,), (x,) if gradient else (), cost)


@operation("scale", "copy")
def scale(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Multiply by a constant, or copy; saves nothing."""
    return graph.record(graph.allocate(x.shape, x.itemsize), (x,))


@operation("gelu", "silu", "relu6", "hardswish", "hardsigmoid")
def activation_saving_input(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Apply an activation function whose gradient needs its input; in-place variants save a copy."""
    return graph.record(graph.allocate(x.shape, x.itemsize), (x,), (x,))


@operation("relu", "tanh", "sigmoid")
def activation_saving_output(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Apply an activation function whose gradient needs its output."""
    out = graph.allocate(x.shape, x.itemsize)
    return graph.record(out, (x,), (out,))


@operation()
def relu_(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Apply ReLU in place; saves its output."""
    out = SizedTensor(x.storage, x.shape, x.itemsize, x.requires_grad)
    return graph.record(out, (x,), (out,))


@operation()
def power(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Raise to a power, in full precision under autocast; saves its input."""
    base = cast_to_fp32_by_autocast(graph, x)
    return graph.record(graph.allocate(x.shape, base.itemsize), (x,), (base,))


@operation()
def mean_square(graph: AutogradGraph, x: SizedTensor, *, width: int = 0) -> SizedTensor:
    """Average the squares of the last axis, or of each group of `width` in it; saves its input."""
    out = graph.allocate((*x.shape[:-1], x.shape[-1] // width if width else 1), x.itemsize)
    return graph.record(out, (x,), (x,), OperationCost(scratch=x.nbytes, backward_scratch=2 * x.nbytes))


@operation()
def softmax_fp32(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Apply softmax to the last axis in full precision; saves its output."""
    out = graph.allocate(x.shape, FULL)
    scratch = 0 if x.itemsize == FULL else x.elements * FULL
    return graph.record(out, (x,), (out,), OperationCost(backward_scratch=scratch))


@operation()
def softmax(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Apply softmax in the precision of its input, in full precision under autocast; saves its output."""
    return softmax_fp32(graph, x) if graph.mode.autocast else activation_saving_output(graph, x)


@operation()
def dropout(graph: AutogradGraph, x: SizedTensor, *, enabled: int = 1) -> SizedTensor:
    """Apply dropout; saves one byte of mask for each element, as on CUDA."""
    if not enabled:
        return x
    mask = graph.allocate(x.shape, 1)
    return graph.record(graph.allocate(x.shape, x.itemsize), (x,), (mask,))


@operation()
def to_fp32(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Cast to full precision."""
    return cast(graph, x, FULL)


@operation()
def to_dtype_of(graph: AutogradGraph, x: SizedTensor, y: SizedTensor) -> SizedTensor:
    """Cast x to the precision of y."""
    return cast(graph, x, y.itemsize)


@operation()
def to_weight_dtype(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Cast to the precision of the weights."""
    return cast(graph, x, graph.mode.weight_itemsize)


def cast(graph: AutogradGraph, x: SizedTensor, itemsize: int) -> SizedTensor:
    """Cast to a precision; return the tensor itself if it has this precision."""
    return x if x.itemsize == itemsize else graph.record(graph.allocate(x.shape, itemsize), (x,))


def cast_for_product(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Return the input of a matrix product: a half-precision copy under autocast, otherwise the tensor itself."""
    if x.itemsize == graph.mode.compute_itemsize or not graph.mode.autocast:
        return x
    return graph.allocate(x.shape, graph.mode.compute_itemsize, x.requires_grad)


def cast_to_fp32_by_autocast(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Return the input of an operation that autocast runs in fp32: an fp32 copy, or the tensor itself."""
    if x.itemsize == FULL or not graph.mode.autocast:
        return x
    return graph.allocate(x.shape, FULL, x.requires_grad)
