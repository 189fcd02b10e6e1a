"""What each of several ranks holds of a network's tensors, as PyTorch's own engine shares them out. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from math import prod

from msgspec.structs import replace

from optadvise.memory.records import Weight


def cut(tensors: Counter[Weight], ranks: int, rank: int = 0) -> Counter[Weight]:
    """Return a rank's pieces under FSDP2, which cuts along the first dimension as `torch.chunk` does.

    All pieces have one length until the rows end, so that the first rank holds most.

    Args:
        tensors: All that are cut.
        ranks: How many share them.
        rank: Whose pieces.

    Example:
        >>> weight = Weight((10, 4), "matrix")
        >>> [sorted(w.shape for w in cut(Counter({weight: 1}), 3, rank)) for rank in range(3)]
        [[(4, 4)], [(4, 4)], [(2, 4)]]
    """
    pieces: Counter[Weight] = Counter()
    for weight, count in tensors.items():
        rows, *rest = weight.shape or (1,)
        length = -(-rows // ranks)
        mine = min(length, max(0, rows - rank * length))
        pieces[replace(weight, shape=(mine, *rest))] += count
    return pieces


def handed_out(tensors: Counter[Weight], ranks: int) -> list[Counter[Weight]]:
    """Return whole tensors by rank, as ZeroRedundancyOptimizer does; ranks that get none are left out.

    The largest comes first, each goes to the rank that has least yet. Matrices come before vectors, as those are a
    group of their own, without weight decay.

    Args:
        tensors: All whose state is shared.
        ranks: How many share it.
    """
    given: list[Counter[Weight]] = [Counter() for _ in range(min(ranks, tensors.total()))]
    least = [(0, rank) for rank in range(len(given))]
    for weight in sorted(tensors.elements(), key=lambda weight: (len(weight.shape) < 2, -prod(weight.shape))):
        has, rank = least[0]
        given[rank][weight] += 1
        heapq.heapreplace(least, (has + prod(weight.shape), rank))
    return given


def elements(tensors: Counter[Weight]) -> int:
    """Return the elements of tensors in all."""
    return sum(prod(weight.shape) * count for weight, count in tensors.items())
