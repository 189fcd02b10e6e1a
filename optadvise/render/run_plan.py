"""Settings of a run, and the choices among them, for all output formats."""

from __future__ import annotations

from msgspec import Struct

from optadvise.core.advice_records import Recommendation
from optadvise.core.records import Situation
from optadvise.core.units import show_bytes, show_count
from optadvise.render.labels import format_options, format_sharding
from optadvise.rulebase.catalog import Catalog

# Facts that are chosen if they are not specified; the others describe what is trained, and are assumed.
CHOSEN_FACTS = frozenset({
    "precision", "micro_batch", "checkpointing", "loss", "attention", "shard", "offload", "gradient_release",
})  # fmt: skip


class ChoiceRow(Struct, frozen=True):
    """Choice of how to run a training, as text."""

    option: str  # as it is typed
    effect: str  # memory that it saves, and its cost
    short_effect: str  # with the main cost alone
    cite: tuple[str, ...]


def list_choices(advice: Recommendation, catalog: Catalog) -> list[ChoiceRow]:
    """Return the choices that save memory."""
    rows = []
    for choice in advice.choices:
        steps = count_accumulation(advice.situation) if "micro_batch" in choice.change else None
        accumulation = "" if steps is None else f"{steps:,} accumulation steps; "
        saved = f"saves {show_bytes(choice.saves)}" if choice.saves else "saves nothing at the expected peak"
        effect = f"{accumulation}{saved}; cost: {choice.costs}"
        if "micro_batch" in choice.change:  # compared with the whole batch, which would not run
            short_effect = _describe_micro_batch(advice)
        else:
            short_effect = f"{saved}; cost: {choice.costs.partition(';')[0]}"
        option = format_options(catalog, choice.change)
        rows.append(ChoiceRow(option=option, effect=effect, short_effect=short_effect, cite=choice.cite))
    return rows


def _describe_micro_batch(advice: Recommendation) -> str:
    """Return why a micro-batch was chosen, see `memory.search.with_micro_batch`."""
    if advice.memory.fits:
        return "the largest that fits even if memory is at the high end of the likely range"
    if advice.situation.micro_batch == 1:
        return "the smallest, because memory is scarce"
    return "the largest that leaves a tenth of the memory free"


def describe_run(advice: Recommendation) -> str:
    """Return how to run the training: precision, batch, and what saves memory."""
    situation = advice.situation
    parts = [situation.precision, _describe_batch(situation), _describe_adapters(situation)]
    parts += [f"{situation.checkpointing} activation checkpointing"] * (situation.checkpointing != "none")
    parts += [format_sharding(situation.shard)] * (situation.shard != "none" and situation.gpus > 1)
    parts += ["optimizer state in host memory"] * situation.offload
    parts += ["gradient release"] * situation.gradient_release
    parts += ["chunked loss"] * (situation.loss == "chunked")
    return ", ".join(filter(None, parts))


def describe_tokens(advice: Recommendation) -> str:
    """Return the tokens of a step and of a parameter, and the steps over which weight decay averages; may be empty.

    The time scale of weight decay is 1 / (learning rate × weight decay) steps (arXiv 2405.13698).
    """
    situation = advice.situation
    if situation.tokens_per_step is None and situation.tokens is None:
        return ""
    parts = [] if situation.tokens_per_step is None else [f"{show_count(situation.tokens_per_step)} per step"]
    if situation.tokens is not None and situation.params is not None:
        parts.append(f"{situation.tokens / situation.params:,.3g} per parameter")
    numbers = {number.name: number.value for number in advice.hyperparameters}
    lr, decay = numbers.get("lr"), numbers.get("weight_decay")
    if isinstance(lr, float) and isinstance(decay, float) and lr * decay and advice.optimizer.decay == "decoupled":
        scale = 1 / (lr * decay)
        effect = ", too long to matter in this run" if scale > situation.steps else ""
        parts.append(f"weight decay averages over 1/(lr × decay) = {show_count(scale)} steps{effect}")
    return ", ".join(parts)


def _describe_adapters(situation: Situation) -> str:
    """Return the rank and the layers of the adapters; empty without adapters."""
    if situation.lora_rank is None:
        return ""
    layers = "all linear layers" if situation.lora_targets == "all" else situation.lora_targets
    if situation.lora_targets == "all" and situation.shape is not None and situation.shape.has_experts:
        layers += " except the experts"
    return f"adapters of rank {situation.lora_rank:,} on {layers}"


def _describe_batch(situation: Situation) -> str:
    """Return micro-batch × accumulation × GPUs = effective batch, as far as they are known."""
    micro_batch, batch, gpus = situation.micro_batch, situation.batch_size, situation.gpus
    gpu_text = f"{gpus:,} GPU{'s' if gpus > 1 else ''}"
    accumulation = count_accumulation(situation)
    if micro_batch is None or accumulation is None:
        return gpu_text if batch is None else f"effective batch {batch:,} on {gpu_text}"
    if batch is None and accumulation == 1:
        counted = "" if "micro_batch" in situation.stated else "memory counted for "
        place = f"each of {gpu_text}" if gpus > 1 else gpu_text
        return f"{place}, {counted}micro-batch {micro_batch:,}"
    if batch is not None and batch % gpus:
        return (
            f"effective batch {batch:,} on {gpu_text}, not a multiple of the GPUs: at most micro-batch {micro_batch:,} "
            "without tensor or pipeline parallelism"
        )
    if accumulation == gpus == 1:
        return f"batch {batch:,} without gradient accumulation, 1 GPU"
    steps = f" × {accumulation:,} accumulation steps" if accumulation > 1 else ""
    return f"micro-batch {micro_batch:,}{steps} × {gpu_text} = effective batch {micro_batch * accumulation * gpus:,}"


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
    return situation.micro_batch * (situation.grad_accum or 1) * situation.gpus


def count_accumulation(situation: Situation) -> int | None:
    """Return the micro-batches per optimizer step on one GPU; None if the micro-batch is unknown."""
    if situation.micro_batch is None or situation.grad_accum is not None:
        return situation.grad_accum
    return max(1, (count_samples(situation) or 1) // (situation.micro_batch * situation.gpus))


def _get_applicable(situation: Situation, fact: str) -> str | None:
    """Return the value of a fact that is specified, chosen or has a default; None if it does not apply."""
    applicable = (*situation.stated, *situation.defaults, *situation.chosen)
    value = getattr(situation, fact)
    return value if fact in applicable and isinstance(value, str) else None
