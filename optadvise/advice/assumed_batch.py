"""Assumed batch of a run whose length is known, so that its steps, learning rate and accumulation follow."""

from __future__ import annotations

from math import log2

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.records import Situation
from optadvise.rulebase.hyperparameters import set_by

_BEST_BATCH = "batch_tokens"  # table of the tokens per step with the lowest loss


def assume_batch(rules: CompiledRules, situation: Situation) -> Situation:
    """Return a run with the batch that its tokens or samples determine; unchanged if they determine none.

    The batch is a multiple of the GPUs, and of the micro-batch or the accumulation steps if they are stated.

    Args:
        rules: The compiled rules.
        situation: A run with defaults and a sample length.
    """
    if "batch_size" not in situation.defaults:
        return situation
    micro_batch = situation.micro_batch if "micro_batch" in situation.stated else None
    unit = situation.gpus * (micro_batch or situation.grad_accum or 1)
    exact, usual = _count_per_step(situation), _find_usual_batch(rules, situation)
    if exact is not None:
        multiple = max(round(exact / unit), 1)
        run = situation.derive(batch_size=multiple * unit)
    elif usual is not None:
        multiple = 2 ** max(round(log2(usual / unit)), 0)
        run = replace(situation, batch_size=multiple * unit)
    else:
        return situation
    return run if micro_batch or not run.grad_accum else run.derive(micro_batch=multiple)


def _count_per_step(situation: Situation) -> float | None:
    """Return the samples per step of a run whose samples and steps are stated; None otherwise."""
    if "steps" not in situation.stated:
        return None
    if situation.tokens is not None:
        samples = None if situation.seq_len is None else situation.tokens / situation.seq_len
    else:
        samples = situation.epochs * situation.samples if situation.epochs and situation.samples else None
    return None if samples is None else samples / situation.steps


def _find_usual_batch(rules: CompiledRules, situation: Situation) -> float | None:
    """Return the samples per step with the lowest loss, otherwise the usual batch of the kind of model, if known."""
    if situation.tokens is None or situation.seq_len is None:
        return situation.batch_size
    table = rules.tables[_BEST_BATCH]
    cells = {name: rules.axes[name].cell(getattr(situation, name)) for name in table.columns}
    tokens = set_by(table.winner(cells), "tokens_per_step", {"tokens": situation.tokens}).value
    return tokens / situation.seq_len if isinstance(tokens, (int, float)) else situation.batch_size
