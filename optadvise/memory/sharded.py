"""What each of several ranks holds of a network's tensors, as PyTorch's own engine shares them out. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from math import prod

from optadvise.memory.records import Weight

# ZeroRedundancyOptimizer hands out whole tensors; FSDP2 cuts each along its first dimension.
WHOLE, CUT = "zero1", "fsdp"


def held(tensors: Counter[Weight], ranks: int, sharding: str) -> list[Counter[Weight]]:
    """Return the tensors of each rank, in the ranks' order.

    Args:
        tensors: All that are trained.
        ranks: How many share them.
        sharding: zero1, fsdp, or none where each rank has all of them.

    Example:
        >>> weight = Weight((10, 4), "matrix")
        >>> [sorted(w.shape for w in rank) for rank in held(Counter({weight: 1}), 3, "fsdp")]
        [[(4, 4)], [(4, 4)], [(2, 4)]]
    """
    if sharding == WHOLE:
        return _handed_out(tensors, ranks)
    return [_cut(tensors, ranks, rank) if sharding == CUT else tensors for rank in range(ranks)]


def fullest(tensors: Counter[Weight], ranks: int, sharding: str) -> Counter[Weight]:
    """Return the tensors of the rank that has most.

    Args:
        tensors: All that are trained.
        ranks: How many share them.
        sharding: As in `held`.
    """
    if sharding == WHOLE:
        return max(_handed_out(tensors, ranks), key=elements)
    return _cut(tensors, ranks, 0) if sharding == CUT else tensors


def elements(tensors: Counter[Weight]) -> int:
    """Return the elements of tensors in all."""
    return sum(prod(weight.shape) * count for weight, count in tensors.items())


def _cut(tensors: Counter[Weight], ranks: int, rank: int) -> Counter[Weight]:
    """Return a rank's pieces: as `torch.chunk` cuts, all of one length until the rows end."""
    pieces: Counter[Weight] = Counter()
    for weight, count in tensors.items():
        rows, *rest = weight.shape or (1,)
        length = -(-rows // ranks)
        mine = min(length, max(0, rows - rank * length))
        pieces[weight._replace(shape=(mine, *rest))] += count
    return pieces


def _handed_out(tensors: Counter[Weight], ranks: int) -> list[Counter[Weight]]:
    """Return whole tensors by rank: the largest first, to the rank that has least yet.

    Matrices come before vectors, as those are a group of their own, without weight decay.
    """
    given: list[Counter[Weight]] = [Counter() for _ in range(ranks)]
    least = [(0, rank) for rank in range(ranks)]
    for weight in sorted(tensors.elements(), key=lambda weight: (len(weight.shape) < 2, -prod(weight.shape))):
        has, rank = least[0]
        given[rank][weight] += 1
        heapq.heapreplace(least, (has + prod(weight.shape), rank))
    return given
