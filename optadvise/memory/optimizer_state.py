"""Bytes of an optimizer's state, tensor by tensor, as its card says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from optadvise.core.cards import Optimizer, StateTensor
from optadvise.core.records import MemoryEstimate, MemoryLine

DTYPE_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "uint8": 8, "int8": 8, "uint4": 4, "int64": 64}

# Per-parameter figures are taken on one such matrix: large enough that everything per tensor vanishes.
REFERENCE_SHAPE = (4096, 4096)


def state_bytes(state: Iterable[StateTensor], shape: Sequence[int], dtype: str = "float32") -> int:
    """Return the bytes of optimizer state that one weight tensor causes.

    Args:
        state: The state tensors of a card.
        shape: The weight's shape.
        dtype: The weight's type, which states of dtype `parameter` follow.

    Returns:
        Bytes, without what is kept once per optimizer.

    Example:
        >>> from optadvise.core.records import MemoryEstimate, MemoryLine, Optimizer, StateTensor
        >>> state_bytes([StateTensor("exp_avg", "element", "parameter")], (64, 64))
        16384
    """
    elements, ndim = prod(shape), len(shape)
    total = 0
    for tensor in state:
        if not tensor.min_elements <= elements <= (tensor.max_elements or elements):
            continue
        if tensor.weights == "half" and DTYPE_BITS[dtype] != 16:
            continue
        if not tensor.min_ndim <= ndim <= (tensor.max_ndim if tensor.max_ndim is not None else ndim):
            continue
        count = {
            "element": elements,
            "tensor": tensor.elements,
            "block": -(-elements // tensor.block),
            "row": elements // shape[-1] if ndim else 1,
            "column": elements // shape[-2] if ndim > 1 else 1,
            "row-square": _square(shape[:1], tensor),
            "column-square": sum(_square((side,), tensor) for side in shape[1:]),
            "optimizer": 0,
        }[tensor.per]
        total += count * DTYPE_BITS[dtype if tensor.dtype == "parameter" else tensor.dtype] // 8
    return total


def _square(side: Sequence[int], tensor: StateTensor) -> int:
    return int(side[0]) ** 2 if side and (tensor.max_side is None or side[0] <= tensor.max_side) else 0


def shared_state_bytes(state: Iterable[StateTensor]) -> int:
    """Return the bytes that are kept once per optimizer, whatever the weights."""
    return sum(t.elements * DTYPE_BITS[t.dtype] // 8 for t in state if t.per == "optimizer")


def state_bytes_per_parameter(state: Iterable[StateTensor], dtype: str = "float32") -> float:
    """Return bytes of state per parameter, taken on a 4096 × 4096 matrix.

    Args:
        state: The state tensors of a card.
        dtype: The weights' type.
    """
    return state_bytes(state, REFERENCE_SHAPE, dtype) / prod(REFERENCE_SHAPE)


def own_state(card: Optimizer) -> tuple[StateTensor, ...]:
    """Return the state tensors that an optimizer's first implementation keeps."""
    state = card.implementations[0].state
    return card.state if state is None else state


def unsized(available: int | None) -> MemoryEstimate:
    """Return the estimate for a network of which not even the number of parameters is known."""
    names = ("weights", "gradients", "optimizer state")
    ledger = tuple(MemoryLine(name, None, "the number of parameters is not known") for name in names)
    return MemoryEstimate(
        weights=None, gradients=None, optimizer=None, activations=None, overhead=None, total=None, known=None,
        available=available, fits=None, ledger=ledger,
    )  # fmt: skip
