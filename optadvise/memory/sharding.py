"""The weights that each of several ranks holds, as PyTorch's implementations distribute them."""

from __future__ import annotations

import heapq
from collections import Counter
from math import prod

from msgspec.structs import replace

from optadvise.memory.records import Weight


def shard_rows(weights: Counter[Weight], ranks: int, rank: int = 0) -> Counter[Weight]:
    """Return a rank's shards under FSDP2, which cuts along the first dimension as `torch.chunk` does.

    All shards have one length until the rows end, so that the first rank holds most.

    Example:
        >>> weight = Weight((10, 4), "matrix")
        >>> [sorted(w.shape for w in shard_rows(Counter({weight: 1}), 3, rank)) for rank in range(3)]
        [[(4, 4)], [(4, 4)], [(2, 4)]]
    """
    shards: Counter[Weight] = Counter()
    for weight, count in weights.items():
        rows, *other_sides = weight.shape or (1,)
        length = -(-rows // ranks)
        own_rows = min(length, max(0, rows - rank * length))
        shards[replace(weight, shape=(own_rows, *other_sides))] += count
    return shards


def assign_whole_weights(weights: Counter[Weight], ranks: int) -> list[Counter[Weight]]:
    """Return whole weights by rank, as ZeroRedundancyOptimizer assigns them; ranks that get none are left out.

    The largest comes first, each goes to the rank that has least yet. Matrices come before vectors, which are a
    parameter group of their own, without weight decay.

    Args:
        weights: All whose state is sharded.
    """
    assigned: list[Counter[Weight]] = [Counter() for _ in range(min(ranks, weights.total()))]
    loads = [(0, rank) for rank in range(len(assigned))]  # a heap of elements and rank
    for weight in sorted(weights.elements(), key=lambda weight: (len(weight.shape) < 2, -prod(weight.shape))):
        load, rank = loads[0]
        assigned[rank][weight] += 1
        heapq.heapreplace(loads, (load + prod(weight.shape), rank))
    return assigned


def count_elements(weights: Counter[Weight]) -> int:
    """Return the elements of all weights."""
    return sum(prod(weight.shape) * count for weight, count in weights.items())
