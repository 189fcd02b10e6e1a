"""What one GPU sends to the others in an optimizer step: the engine's collectives, how often, and of how much. Pure."""

from __future__ import annotations

from msgspec import Struct

from optadvise.core.cards import COLLECTIVES
from optadvise.core.records import Collective, Situation, Traffic
from optadvise.memory.breakdown import Parts

# How often a ring sends each element round, less the share that a GPU has itself: an all-reduce is a reduce-scatter and
# an all-gather (ZeRO, section 7.1).
_ROUNDS = dict(zip(COLLECTIVES, (2, 1, 1, 1), strict=True))


class Talk(Struct, frozen=True):
    """A collective of the engine, as `rules/memory.yaml` has it."""

    operation: str  # one of COLLECTIVES
    of: str  # weights, updated (those that are trained) or gradients
    each: str  # pass or step
    when: str


def passes(situation: Situation) -> int:
    """Return the forward and backward passes of an optimizer step; one where the batch is not known.

    Args:
        situation: The run; passes of unknown size are taken as the smallest.
    """
    return -(-(situation.batch_size or 1) // ((situation.micro_batch or 1) * situation.gpus))


class Engine(Struct, frozen=True):
    """How a way of sharding is done."""

    collectives: tuple[Talk, ...]
    note: str | None
    cite: tuple[str, ...]


def traffic(situation: Situation, has: Parts, engine: Engine) -> Traffic | None:
    """Return what one GPU sends in an optimizer step, None where there is no other.

    Args:
        situation: The run.
        has: What it is made of.
        engine: Of its way of sharding.
    """
    gpus, often = situation.gpus, passes(situation)
    if gpus == 1:
        return None
    whole = {"weights": has.all_weights, "updated": has.updated, "gradients": has.updated}
    found = tuple(
        Collective(talk.operation, talk.of, talk.when, whole[talk.of], times,
                   whole[talk.of] * times * _ROUNDS[talk.operation] * (gpus - 1) // gpus)
        for talk in engine.collectives for times in [often if talk.each == "pass" else 1]
    )  # fmt: skip
    return Traffic(sum(one.sent for one in found), often, found, engine.note, engine.cite)
