"""Bytes of optimizer state per tensor, as the optimizer's card declares it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from optadvise.core.cards import Optimizer, StateTensor

DTYPE_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "uint8": 8, "int8": 8, "uint4": 4, "int64": 64}

# Matrix for bytes per parameter: large enough that state per tensor is negligible.
REFERENCE_SHAPE = (4096, 4096)


def compute_state_bytes(state: Iterable[StateTensor], shape: Sequence[int], dtype: str = "float32") -> int:
    """Return the bytes of optimizer state of one weight tensor.

    Args:
        state: State tensors of the optimizer's card.
        shape: Shape of the weight.
        dtype: Type of the weight, and of state tensors with dtype `parameter`.

    Returns:
        Bytes, without state that exists once per optimizer.

    Example:
        >>> from optadvise.core.cards import StateTensor
        >>> compute_state_bytes([StateTensor(name="exp_avg", per="element", dtype="parameter")], (64, 64))
        16384
    """
    return sum(
        _count_elements(tensor, shape) * _get_bits(tensor, dtype) // 8
        for tensor in state
        if _is_kept(tensor, shape, dtype)
    )


def compute_paged_bytes(state: Iterable[StateTensor], shape: Sequence[int], dtype: str = "float32") -> int:
    """Return the bytes of state of one weight tensor in managed memory, which can be paged to the host."""
    elements = prod(shape)
    paged = (tensor for tensor in state if tensor.paged_from is not None and elements >= tensor.paged_from)
    return compute_state_bytes(paged, shape, dtype)


def _is_kept(tensor: StateTensor, shape: Sequence[int], dtype: str) -> bool:
    """Return whether an optimizer has a state tensor for a weight."""
    elements, ndim = prod(shape), len(shape)
    if tensor.weights == "half" and DTYPE_BITS[dtype] != 16:
        return False
    if not tensor.min_elements <= elements <= (tensor.max_elements or elements):
        return False
    return tensor.min_ndim <= ndim <= (tensor.max_ndim if tensor.max_ndim is not None else ndim)


def _get_bits(tensor: StateTensor, dtype: str) -> int:
    return DTYPE_BITS[dtype if tensor.dtype == "parameter" else tensor.dtype]


def _count_elements(tensor: StateTensor, shape: Sequence[int]) -> int:
    """Return the elements of a state tensor for one weight."""
    elements, ndim = prod(shape), len(shape)
    return {
        "element": elements,
        "tensor": tensor.elements,
        "block": -(-elements // tensor.block),
        "row": elements // shape[-1] if ndim else 1,
        "column": elements // shape[-2] if ndim > 1 else 1,
        "row-square": sum(_count_square(side, tensor) for side in shape[:1]),
        "column-square": sum(_count_square(side, tensor) for side in shape[1:]),
        "long-side": max(shape, default=1) * min((tensor.rank, *shape)),
        "short-side": min(shape, default=1) * min((tensor.rank, *shape)),
        "optimizer": 0,
    }[tensor.per]


def _count_square(side: int, tensor: StateTensor) -> int:
    """Return the elements of a square matrix over an axis; 0 if the axis is too long."""
    return side**2 if tensor.max_side is None or side <= tensor.max_side else 0


def compute_shared_state_bytes(state: Iterable[StateTensor]) -> int:
    """Return the bytes of state that exists once per optimizer."""
    return sum(t.elements * DTYPE_BITS[t.dtype] // 8 for t in state if t.per == "optimizer")


def compute_state_bytes_per_parameter(state: Iterable[StateTensor], dtype: str = "float32") -> float:
    """Return the bytes of state per parameter of a 4096 × 4096 matrix."""
    return compute_state_bytes(state, REFERENCE_SHAPE, dtype) / prod(REFERENCE_SHAPE)


def compute_paged_bytes_per_parameter(state: Iterable[StateTensor], dtype: str = "float32") -> float:
    """Return the bytes of state in managed memory per parameter of a 4096 × 4096 matrix."""
    return compute_paged_bytes(state, REFERENCE_SHAPE, dtype) / prod(REFERENCE_SHAPE)


def list_state_tensors(card: Optimizer) -> tuple[StateTensor, ...]:
    """Return the state tensors of an optimizer's first implementation."""
    state = card.implementations[0].state
    return card.state if state is None else state
