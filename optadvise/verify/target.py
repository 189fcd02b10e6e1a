"""What is audited, made of a card. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from optadvise.core.records import Implementation, Optimizer
from optadvise.memory import DTYPE_BITS, state_bytes
from optadvise.rulebase.catalog import Catalog

# The shapes of the scenes, which `scenes.py` holds with torch; a test holds the two together.
SHAPES: Mapping[str, tuple[int, ...]] = {
    "plain": (64, 64), "decay": (64, 64), "zero": (64, 64), "tall": (128, 32), "vector": (1000,), "scalar": (),
    "filter": (16, 8, 3, 3), "falling": (64, 64), "half": (64, 64), "even": (64, 64),
}  # fmt: skip

RESUMED, RESUMED_ELSEWHERE = "saving and loading", "saving and loading in another process"


class Subject(Struct, frozen=True):
    """What is audited, as plain data from its card."""

    optimizer: str
    path: str  # import path
    hyperparameters: Mapping[str, Any]  # the card's defaults by the card's names
    arguments: Mapping[str, str]  # ours -> the constructor's
    kwargs: Mapping[str, Any]  # always passed
    decay: str
    ancestors: list[str]
    matrices: bool = False
    train_mode: bool = False
    sparse: bool = False
    bits: Mapping[str, int] = {}  # of the narrowest state in each scene where it is not 32
    coarse: float = 0.0  # share that the implementation's own arithmetic costs
    leaves_out: tuple[str, ...] = ()  # scenes that more than one answer is right in


def of_card(catalog: Catalog, card: Optimizer, made: Implementation) -> Subject:
    """Return what an implementation on a card has to be.

    Args:
        catalog: Where its ancestors are looked up.
        card: The optimizer.
        made: The implementation.
    """
    return Subject(
        card.id, made.path, {h.name: h.default for h in card.hyperparameters}, dict(made.arguments),
        {**made.kwargs, **made.on_cpu},
        card.decay, ancestors(catalog, card), made.tensors == "matrix", made.needs_train_mode, card.sparse_gradients,
        {name: _narrowest(card, made, shape) for name, shape in SHAPES.items()},
        float((made.audit or {}).get("rounding", 0.0)), tuple((made.audit or {}).get("leaves_out", ())),
    )  # fmt: skip


def imported(catalog: Catalog, card: Optimizer, path: str) -> Subject:
    """Return what somebody's own class has to be, to be called like a card.

    Args:
        catalog: Where its ancestors are looked up.
        card: The optimizer that it says it is.
        path: Its import path.
    """
    first = card.implementations[0]
    own = Implementation("imported", path, None, first.devices, tensors=first.tensors)
    return of_card(catalog, card, own)


def ancestors(catalog: Catalog, card: Optimizer) -> list[str]:
    """Return the ids of the optimizers that one came from, the nearest first."""
    found: list[str] = []
    waiting = [*card.parents]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += catalog.optimizer(name).parents
    return found


def _narrowest(card: Optimizer, made: Implementation, shape: tuple[int, ...]) -> int:
    """Return the bits per element of what is quantised most, for a weight of a shape."""
    state = card.state if made.state is None else made.state
    kept = (t for t in state if t.per == "element" and state_bytes([t], shape or (math.prod(shape),)))
    return min((DTYPE_BITS["float32" if t.dtype == "parameter" else t.dtype] for t in kept), default=32)
