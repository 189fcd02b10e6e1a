"""Audit targets, built from cards. Does not import torch."""

from __future__ import annotations

import math

from optadvise.core.cards import Implementation, Optimizer
from optadvise.memory.optimizer_state import DTYPE_BITS, compute_state_bytes
from optadvise.rulebase.catalog import Catalog
from optadvise.verify.records import AuditTarget
from optadvise.verify.scenarios import SCENARIOS


def make_target(catalog: Catalog, card: Optimizer, implementation: Implementation) -> AuditTarget:
    """Return the audit target of an implementation."""
    allowance = implementation.audit
    return AuditTarget(
        optimizer=card.id,
        implementation=implementation,
        hyperparameters={each.name: each.default for each in card.hyperparameters},
        decay=card.decay,
        ancestors=find_ancestors(catalog, card),
        takes_sparse_gradients=card.sparse_gradients,
        bits={each.name: _find_narrowest_bits(card, implementation, each.shape) for each in SCENARIOS},
        rounding_share=0.0 if allowance is None else allowance.rounding or 0.0,
        skipped=() if allowance is None else allowance.leaves_out,
    )


def describe_user_class(card: Optimizer, path: str) -> Implementation:
    """Return a user's class as an implementation of an optimizer."""
    first = card.implementations[0]
    return Implementation(
        id=path.rpartition(".")[2], path=path, package=None, devices=first.devices, tensors=first.tensors
    )


def find_ancestors(catalog: Catalog, card: Optimizer) -> tuple[str, ...]:
    """Return the ids of the optimizers that an optimizer derives from, the closest first."""
    ancestors: list[str] = []
    queue = [*card.parents]
    while queue:
        name = queue.pop(0)
        if name not in ancestors:
            ancestors.append(name)
            queue += catalog.optimizer(name).parents
    return tuple(ancestors)


def _find_narrowest_bits(card: Optimizer, implementation: Implementation, shape: tuple[int, ...]) -> int:
    """Return the bits per element of the most quantized state for a weight of a shape."""
    state = card.state if implementation.state is None else implementation.state
    tensors = (t for t in state if t.per == "element" and compute_state_bytes([t], shape or (math.prod(shape),)))
    return min((DTYPE_BITS["float32" if t.dtype == "parameter" else t.dtype] for t in tensors), default=32)
