"""Operations of networks: tensors that PyTorch saves and allocates for each.

An operation is a function of the graph, tensors and named numbers. It records itself in the graph and returns its
output tensor. Under autocast every matrix product casts its input and saves the copy; the simulation does the same.
"""

from optadvise.memory.operations import (
    attention,
    elementwise,
    embedding,
    experts,
    layout,
    linear,
    loss,
    normalization,
    pooling,
)
from optadvise.memory.operations.registry import OPERATIONS, OperationSignature, list_signatures, list_text_arguments

__all__ = [
    "OPERATIONS",
    "OperationSignature",
    "attention",
    "elementwise",
    "embedding",
    "experts",
    "layout",
    "linear",
    "list_signatures",
    "list_text_arguments",
    "loss",
    "normalization",
    "pooling",
]  # fmt: skip
