"""Pooling operations."""

from __future__ import annotations

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.memory.autograd import AutogradGraph, SizedTensor
from optadvise.memory.operations.registry import operation


def compute_output_side(side: int, kernel: int, stride: int, padding: int) -> int:
    """Return the pixels of an output's side.

    Raises:
        InputError: The padded image is smaller than the kernel.
    """
    if side + 2 * padding < kernel:
        raise InputError(
            f"the image is too small: side {side} with padding {padding} is smaller than the {kernel}-pixel kernel",
            code=ErrorCode.OUT_OF_RANGE, option="--image-size",
        )  # fmt: skip
    return (side + 2 * padding - kernel) // stride + 1


@operation()
def max_pool(graph: AutogradGraph, x: SizedTensor, *, kernel: int, stride: int, padding: int = 0) -> SizedTensor:
    """Apply max pooling; saves its input and the indices of the maxima."""
    shape = (*x.shape[:2], *(compute_output_side(side, kernel, stride, padding) for side in x.shape[2:]))
    indices = graph.allocate(shape, 8)
    return graph.record(graph.allocate(shape, x.itemsize), (x,), (x, indices))


@operation()
def avg_pool(graph: AutogradGraph, x: SizedTensor, *, kernel: int, stride: int) -> SizedTensor:
    """Apply average pooling; saves its input."""
    shape = (*x.shape[:2], *(compute_output_side(side, kernel, stride, 0) for side in x.shape[2:]))
    return graph.record(graph.allocate(shape, x.itemsize), (x,), (x,))


@operation()
def adaptive_avg_pool(graph: AutogradGraph, x: SizedTensor, *, side: int) -> SizedTensor:
    """Average an image to a given size; saves its input, except where the output is one pixel."""
    return graph.record(graph.allocate((*x.shape[:2], side, side), x.itemsize), (x,), (x,) if side > 1 else ())


@operation()
def strided_shortcut(graph: AutogradGraph, x: SizedTensor, *, out: int, stride: int) -> SizedTensor:
    """Take every `stride`-th pixel and pad the channels with zeros; saves nothing."""
    shape = (x.shape[0], out, *(compute_output_side(side, 1, stride, 0) for side in x.shape[2:]))
    return graph.record(graph.allocate(shape, x.itemsize), (x,))


@operation()
def mean(graph: AutogradGraph, x: SizedTensor) -> SizedTensor:
    """Average over the pixels of an image, or over a sequence; saves nothing."""
    width = x.shape[1] if len(x.shape) == 4 else x.shape[-1]
    return graph.record(graph.allocate((x.shape[0], width), x.itemsize), (x,))
