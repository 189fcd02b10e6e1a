"""How to run a training: settings, and the choices among them, for all output formats."""

from __future__ import annotations

from optadvise.core.records import Recommendation, Situation


def describe_settings(advice: Recommendation) -> dict[str, object]:
    """Return how to run the training, by fact; None is unknown, or does not apply to the kind of model."""
    situation = advice.situation
    samples = count_samples(situation)
    return {
        "precision": situation.precision,
        "micro_batch": situation.micro_batch,
        "accumulation": count_accumulation(situation),
        "effective_batch": samples,
        "tokens_per_step": None if samples is None or situation.seq_len is None else samples * situation.seq_len,
        "checkpointing": situation.checkpointing,
        "loss": _get_applicable(situation, "loss"),
        "attention": _get_applicable(situation, "attention"),
        "shard": situation.shard,
        "offload": situation.offload,
        "gradient_release": situation.gradient_release,
        "variant": "fused" if advice.fused else None,
    }


def count_samples(situation: Situation) -> int | None:
    """Return the samples of an optimizer step over all GPUs; None if neither batch nor micro-batch is known."""
    if situation.batch_size is not None or situation.micro_batch is None:
        return situation.batch_size
    return situation.micro_batch * situation.gpus


def count_accumulation(situation: Situation) -> int | None:
    """Return the micro-batches per optimizer step on one GPU; None if the micro-batch is unknown."""
    if situation.micro_batch is None:
        return None
    return max(1, (count_samples(situation) or 1) // (situation.micro_batch * situation.gpus))


def _get_applicable(situation: Situation, fact: str) -> str | None:
    """Return the value of a fact that is specified, chosen or has a default; None if it does not apply."""
    known = (*situation.stated, *situation.defaults, *situation.chosen)
    value = getattr(situation, fact)
    return value if fact in known and isinstance(value, str) else None
