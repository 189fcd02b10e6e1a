"""Memory of a run, memory with every other optimizer, and changes that make the run fit."""

from __future__ import annotations

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import is_rejected
from optadvise.advice.fit_search import find_fixes
from optadvise.advice.fix_chains import is_sound_when_sharded
from optadvise.core.advice_records import Recommendation
from optadvise.core.records import Fit, MemoryAnswer, MemoryEstimate, Situation
from optadvise.memory import estimator, search
from optadvise.memory.inputs import select_memory_inputs
from optadvise.memory.scaling import scale_run


def answer_memory(rules: CompiledRules, situation: Situation) -> MemoryAnswer:
    """Return the memory of a run, its memory with every optimizer, and changes that make it fit.

    Args:
        rules: The compiled rules.
        situation: A complete situation; without an optimizer, the reference optimizer is assumed.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> from optadvise.advice.complete import complete_situation
        >>> rules = CompiledRules(load())
        >>> situation = complete_situation(rules, {"params": 7 * 10**9, "vram_bytes": 24 * 2**30})
        >>> answer_memory(rules, situation).memory.fits
        False
    """
    run = _plan_run(rules, situation, rules.reference_optimizer)
    memory, optimizer = rules.memory_rules, run.optimizer or ""
    return replace(
        _answer_run(rules, run, estimator.estimate(memory, run, optimizer)),
        optimizers=tuple(rank_optimizers(rules, run)),
        scaling=scale_run(memory, run, optimizer),
        largest_micro_batch_by_gpu={} if run.vram_bytes is not None else _size_micro_batches(rules, run),
    )


def find_remedies(rules: CompiledRules, advice: Recommendation) -> MemoryAnswer | None:
    """Return changes that make a recommended run fit; None if it certainly fits or no limit is known.

    Args:
        rules: The compiled rules.
        advice: The recommendation.
    """
    run = advice.situation
    if advice.memory.fits is True or run.params is None or run.vram_bytes is None:
        return None
    return _answer_run(rules, _plan_run(rules, run, advice.optimizer.id), advice.memory)


def _plan_run(rules: CompiledRules, situation: Situation, optimizer: str) -> Situation:
    """Return a situation with a micro-batch and with an optimizer, if none was requested."""
    if situation.optimizer is None:
        situation = situation.derive(optimizer=optimizer)
    return search.with_micro_batch(rules.memory_rules, situation, situation.optimizer or optimizer)


def _answer_run(rules: CompiledRules, run: Situation, estimate: MemoryEstimate) -> MemoryAnswer:
    """Return the memory of a run with its micro-batch, and changes that make it fit."""
    memory, optimizer = rules.memory_rules, run.optimizer or ""
    return MemoryAnswer(
        situation=run,
        optimizer=optimizer,
        memory=estimate,
        largest_micro_batch=search.find_largest_micro_batch(memory, run, optimizer),
        longest_sequence=search.find_longest_sequence(memory, run, optimizer),
        optimizers=(),
        fixes=tuple(find_fixes(rules, run, estimate)),
        traffic=estimator.estimate_traffic(memory, select_memory_inputs(run)),
    )


def _size_micro_batches(rules: CompiledRules, run: Situation) -> dict[str, int]:
    """Return the largest micro-batch of a run by id of common GPUs; empty if activations are unknown."""
    memory, optimizer = rules.memory_rules, run.optimizer or ""
    if not estimator.knows_activations(memory, select_memory_inputs(run)):
        return {}
    gpus = sorted((gpu for gpu in rules.catalog.gpus if gpu.usual), key=lambda gpu: gpu.memory_gib)
    limited = {gpu.id: replace(run, vram_bytes=gpu.memory_bytes) for gpu in gpus}
    return {gpu: search.find_largest_micro_batch(memory, on_gpu, optimizer) or 0 for gpu, on_gpu in limited.items()}


def rank_optimizers(rules: CompiledRules, run: Situation) -> list[Fit]:
    """Return the memory of a run with every optimizer, least first, without those that the rules reject."""
    names = [name for name in rules.catalog.optimizer_ids if not is_rejected(rules, run, name)]
    fits = [
        replace(_fit_optimizer(rules, run, name), breaks=not is_sound_when_sharded(rules, run, name)) for name in names
    ]
    return sorted(fits, key=lambda fit: (fit.total or fit.model_states or 0, fit.id))


def _fit_optimizer(rules: CompiledRules, run: Situation, optimizer: str) -> Fit:
    """Return the memory of a run with an optimizer; with a limit, also the largest micro-batch and longest sequence."""
    if run.vram_bytes is None:
        return estimator.estimate_total(rules.memory_rules, select_memory_inputs(run), optimizer)
    memory = estimator.estimate(rules.memory_rules, run, optimizer)
    return Fit(
        id=optimizer, optimizer_bytes=memory.optimizer, total=memory.total,
        model_states=memory.model_states, fits=memory.fits,
        largest_micro_batch=search.find_largest_micro_batch(rules.memory_rules, run, optimizer),
        longest_sequence=search.find_longest_sequence(rules.memory_rules, run, optimizer), pageable=memory.pageable,
    )  # fmt: skip
