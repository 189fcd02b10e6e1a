"""Weights of each rank, as PyTorch's sharding implementations distribute them."""

from __future__ import annotations

import heapq
from collections import Counter
from math import prod

from msgspec.structs import replace

from optadvise.memory.records import Weight


def shard_rows(weights: Counter[Weight], ranks: int, rank: int = 0) -> Counter[Weight]:
    """Return the shards of a rank under FSDP2, which splits the first dimension like `torch.chunk`.

    The first rank has the largest shards.

    Example:
        >>> weight = Weight((10, 4), "matrix")
        >>> [sorted(w.shape for w in shard_rows(Counter({weight: 1}), 3, rank)) for rank in range(3)]
        [[(4, 4)], [(4, 4)], [(2, 4)]]
    """
    shards: Counter[Weight] = Counter()
    for weight, count in weights.items():
        rows, *other_sides = weight.shape or (1,)
        length = -(-rows // ranks)
        rank_rows = min(length, max(0, rows - rank * length))
        shards[replace(weight, shape=(rank_rows, *other_sides))] += count
    return shards


def assign_whole_weights(weights: Counter[Weight], ranks: int) -> list[Counter[Weight]]:
    """Return whole weights by rank, as ZeroRedundancyOptimizer assigns them; ranks without weights are omitted.

    Weights are assigned from largest to smallest, each to the rank with the fewest elements. Matrices come before
    vectors, which form a parameter group without weight decay.

    Args:
        weights: Weights whose state is sharded.
        ranks: Number of ranks.
    """
    assigned: list[Counter[Weight]] = [Counter() for _ in range(min(ranks, weights.total()))]
    loads = [(0, rank) for rank in range(len(assigned))]  # heap of (elements, rank)
    for weight in sorted(weights.elements(), key=lambda weight: (len(weight.shape) < 2, -prod(weight.shape))):
        load, rank = loads[0]
        assigned[rank][weight] += 1
        heapq.heapreplace(loads, (load + prod(weight.shape), rank))
    return assigned


def count_elements(weights: Counter[Weight]) -> int:
    """Return the number of elements of all weights."""
    return sum(prod(weight.shape) * count for weight, count in weights.items())
