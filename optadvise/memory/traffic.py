"""Communication of one GPU in an optimizer step: collectives, their number and their bytes."""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.core.cards import COLLECTIVES
from optadvise.core.records import Collective, Traffic
from optadvise.memory.inputs import MemoryInputs
from optadvise.memory.model_memory import ModelMemory
from optadvise.rulebase.memory_rules import ShardingStrategy

# Times that a ring collective sends each element, except those of the GPU's own shard: an all-reduce is a
# reduce-scatter and an all-gather (ZeRO, section 7.1).
_ROUNDS = dict(zip(COLLECTIVES, (2, 1, 1, 1), strict=True))


def estimate_step_traffic(inputs: MemoryInputs, model: ModelMemory, strategy: ShardingStrategy) -> Traffic | None:
    """Return the communication of one GPU in an optimizer step; None on a single GPU."""
    if inputs.gpus == 1:
        return None
    sizes = {
        "weights": model.unsharded_weights, "updated": model.unsharded_trained, "gradients": model.unsharded_trained,
    }  # fmt: skip
    collectives = tuple(_list_collectives(inputs, sizes, strategy))
    sent = sum(collective.sent for collective in collectives)
    return Traffic(
        sent=sent, passes=inputs.micro_batches, collectives=collectives, note=strategy.note, cite=strategy.cite
    )


def _list_collectives(inputs: MemoryInputs, sizes: Mapping[str, int], strategy: ShardingStrategy) -> list[Collective]:
    """Return the collectives of a strategy with the bytes that each GPU sends in a ring."""
    collectives = []
    for spec in strategy.collectives:
        times = inputs.micro_batches if spec.per == "micro-batch" else 1
        sent = sizes[spec.of] * times * _ROUNDS[spec.operation] * (inputs.gpus - 1) // inputs.gpus
        collectives.append(
            Collective(
                operation=spec.operation, of=spec.of, when=spec.when, bytes=sizes[spec.of], times=times, sent=sent
            )
        )
    return collectives
