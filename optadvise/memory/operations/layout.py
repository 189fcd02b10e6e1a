"""Operations that view, copy or join elements."""

from __future__ import annotations

from optadvise.memory.autograd import NO_COST, REUSES_GRADIENT, AutogradGraph, SizedTensor
from optadvise.memory.operations.registry import operation
from optadvise.memory.records import Shape


@operation()
def chunk_view(graph: AutogradGraph, x: SizedTensor, *, of: int) -> SizedTensor:
    """View one of `of` equal parts of the last axis."""
    return view(graph, x, (*x.shape[:-1], x.shape[-1] // of))


@operation()
def chunk_copy(graph: AutogradGraph, x: SizedTensor, *, of: int) -> SizedTensor:
    """Copy one of `of` equal parts of the last axis."""
    return graph.record(graph.allocate((*x.shape[:-1], x.shape[-1] // of), x.itemsize), (x,))


@operation()
def narrow(graph: AutogradGraph, x: SizedTensor, *, width: int) -> SizedTensor:
    """View `width` elements of the last axis."""
    return view(graph, x, (*x.shape[:-1], width))


@operation()
def second(graph: AutogradGraph, a: SizedTensor, b: SizedTensor) -> SizedTensor:
    """Return the second of two tensors, where a flag chooses between them."""
    return b


@operation()
def image_to_sequence(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """View the pixels of an image as a sequence."""
    batch, channels, height, width = x.shape
    return view(graph, x, (batch, height * width, channels))


@operation()
def channels_last(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """View an image with its channels as the last axis."""
    batch, channels, height, width = x.shape
    return view(graph, x, (batch, height, width, channels))


@operation()
def channels_first(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """View a channels-last image with its channels as the second axis."""
    batch, height, width, channels = x.shape
    return view(graph, x, (batch, channels, height, width))


@operation()
def first_token(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """View the first token of a sequence."""
    return view(graph, x, (x.shape[0], x.shape[-1]))


@operation()
def flatten(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """View all elements of a sample as one axis."""
    return view(graph, x, (x.shape[0], x.elements // x.shape[0]))


@operation()
def concat(graph: AutogradGraph, a: SizedTensor, b: SizedTensor) -> SizedTensor:
    """Join the channels of two images; saves nothing."""
    shape = (a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
    return graph.record(graph.allocate(shape, max(a.itemsize, b.itemsize)), (a, b))


@operation()
def repeat_heads(graph: AutogradGraph, x: SizedTensor, *, times: int) -> SizedTensor:
    """Repeat keys or values for grouped heads; return the tensor itself if `times` is 1."""
    if times == 1:
        return x
    return graph.record(graph.allocate((*x.shape[:-1], x.shape[-1] * times), x.itemsize), (x,))


def view(graph: AutogradGraph, x: SizedTensor, shape: Shape) -> SizedTensor:
    """Return a view of a tensor; a view of all elements reuses the gradient."""
    out = SizedTensor(x.storage, shape, x.itemsize, x.requires_grad)
    return graph.record(out, (x,), cost=REUSES_GRADIENT if out.elements == x.elements else NO_COST)
