"""The operations of networks, and what PyTorch saves, allocates and computes for each.

An operation is a function that takes the graph, then tensors, then named numbers, records itself in the graph and
returns its output tensor. Under autocast every matrix product casts its input anew, and the cast copy is what is saved;
that is simulated as it happens.
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
