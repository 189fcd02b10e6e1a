"""Complete situations: the stated inputs, with the defaults of the rules and the usual sample length."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.records import FactValues, NetworkShape, Situation
from optadvise.memory.estimator import change_sized_run, complete_length
from optadvise.memory.network_size import count_parameters

_NOTHING_STATED = Situation()
_LISTED_AS_UNKNOWN = ("model", "params", "vram_bytes", "batch_size")  # others may stay unknown, too


def complete_situation(rules: CompiledRules, inputs: FactValues) -> Situation:
    """Return the complete situation that stated inputs describe.

    Args:
        rules: The compiled rules.
        inputs: Values by fact, only what was stated; `shape` is a network's shape.

    Raises:
        InputError: Two inputs contradict each other.
        RuleFileError: The rules have no default for the number of GPUs.
    """
    shape = inputs.get("shape")
    if isinstance(shape, NetworkShape):
        inputs = {**inputs, "params": count_parameters(rules.memory_rules, shape)}
    filled = rules.defaults.fill(inputs)
    if "gpus" not in filled:
        folder = next((str(folder) for _, folder in rules.catalog.folders), "")
        raise RuleFileError("the rules have no default for `gpus`; add one to assume.yaml", folder)
    _reject_contradictions(rules, filled)
    unknown = [name for name in _LISTED_AS_UNKNOWN if name not in filled]
    situation = replace(
        _NOTHING_STATED,
        **filled,
        stated=tuple(name for name, value in inputs.items() if value is not None),
        defaults=(*unknown, *(name for name in filled if name not in inputs)),
    )
    _reject_uneven_batch(situation)
    return situation if situation.params is None else complete_length(rules.memory_rules, situation)


def _reject_contradictions(rules: CompiledRules, inputs: FactValues) -> None:
    contradiction = rules.defaults.find_contradiction(inputs)
    if contradiction is not None:
        options = _format_options(rules, inputs, contradiction.when)
        raise InputError(f"{options}: {contradiction.problem}; {contradiction.remedy}")


def _format_options(rules: CompiledRules, inputs: FactValues, names: Iterable[str]) -> str:
    """Return the options of the facts that have a value; `--gpu` states what is derived from it."""
    options = []
    for name in names:
        fact, value = rules.catalog.facts[name], inputs.get(name)
        if value is not None:
            flag = "--gpu" if fact.derived == "gpu" else fact.flag or f"--{name}"
            options.append(flag if value is True else f"{flag} {value}")
    return " ".join(options)


def _reject_uneven_batch(situation: Situation) -> None:
    """Reject a batch that GPUs and micro-batches cannot share equally."""
    micro_batch, batch_size, gpus = situation.micro_batch, situation.batch_size, situation.gpus
    if batch_size is not None and batch_size % gpus:
        raise InputError(
            f"--batch-size {batch_size} --gpus {gpus}: GPUs take equal shares of a batch; say a multiple of {gpus}"
        )
    if micro_batch is None:
        return
    if situation.gradient_release and (batch_size or 1) > micro_batch * gpus:
        raise InputError(
            f"--gradient-release --batch-size {batch_size} --micro-batch {micro_batch}: gradients that are let go "
            "cannot add up over passes; leave one of them out"
        )
    if batch_size is not None and batch_size % (micro_batch * gpus):
        per_pass = f"{micro_batch} × {gpus} GPU{'s' if gpus > 1 else ''}"
        raise InputError(
            f"--batch-size {batch_size}: must be a multiple of --micro-batch {per_pass} = {micro_batch * gpus}, "
            "as it counts all GPUs and accumulation"
        )


def change_situation(rules: CompiledRules, situation: Situation, changes: FactValues) -> Situation:
    """Return a complete situation after changes.

    Args:
        rules: The compiled rules.
        situation: The situation before.
        changes: New values by fact, those of defaults that follow included.
    """
    if situation.params is None and changes.get("params") is None:
        return replace(situation, **changes)
    return change_sized_run(rules.memory_rules, situation, changes)
