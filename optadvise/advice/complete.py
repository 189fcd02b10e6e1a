"""Completion of inputs: defaults of the rules, typical sample length, and checks for contradictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.records import FactValues, InputValue, NetworkShape, Situation
from optadvise.memory.estimator import change_sized_run, complete_length
from optadvise.memory.inputs import ESTIMATE_FACTS
from optadvise.memory.network_size import count_parameters
from optadvise.memory.search import list_divisors

_NOTHING_STATED = Situation()
_LISTED_AS_UNKNOWN = ("model", "params", "vram_bytes", "batch_size")  # listed with the defaults if unknown


def complete_situation(rules: CompiledRules, inputs: FactValues) -> Situation:
    """Return the complete situation for specified inputs.

    Args:
        rules: The compiled rules.
        inputs: Specified values by fact; `shape` is a `NetworkShape`.

    Raises:
        InputError: Inputs contradict each other, or the batch is not divisible.
        RuleFileError: The rules have no default for the number of GPUs.
    """
    shape = inputs.get("shape")
    if isinstance(shape, NetworkShape):
        inputs = {**inputs, "params": count_parameters(rules.memory_rules, shape)}
    filled = rules.defaults.fill(inputs)
    if "gpus" not in filled:
        folder = next((str(folder) for _, folder in rules.catalog.folders), "")
        raise RuleFileError(
            "the rules have no default for `gpus`; add one to assume.yaml", folder, code=ErrorCode.RULE_GAP
        )
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
        options = _list_options(rules, inputs, contradiction.when)
        shown = " ".join(option if value is True else f"{option} {value}" for option, value in options.items())
        option, value = next(iter(options.items()), ("", None))
        raise InputError(
            f"{shown}: {contradiction.problem}; {contradiction.remedy}",
            code=ErrorCode.OPTION_CONFLICT, option=option, value=value,
        )  # fmt: skip


def _list_options(rules: CompiledRules, inputs: FactValues, names: Iterable[str]) -> dict[str, InputValue]:
    """Return the values of facts by the option that sets each; facts that are derived from the GPU have `--gpu`."""
    options = {}
    for name in names:
        fact, value = rules.catalog.facts[name], inputs.get(name)
        if value is not None:
            is_of_gpu = fact.derived == "gpu"
            options["--gpu" if is_of_gpu else fact.flag or f"--{name}"] = (
                inputs.get("gpu", value) if is_of_gpu else value
            )
    return options


def _reject_uneven_batch(situation: Situation) -> None:
    """Reject a batch that is not divisible by the number of GPUs and the micro-batch."""
    micro_batch, batch_size, gpus = situation.micro_batch, situation.batch_size, situation.gpus
    if batch_size is not None and batch_size % gpus:
        raise InputError(
            f"--gpus {gpus}: --batch-size {batch_size} must be divisible by --gpus; "
            f"use {_format_nearest_divisors(batch_size, gpus)}",
            code=ErrorCode.NOT_DIVISIBLE, option="--gpus", value=gpus,
        )  # fmt: skip
    if micro_batch is None:
        return
    if releases_accumulated(situation):
        raise InputError(
            f"--gradient-release: requires one micro-batch per step, but --batch-size {batch_size} with --micro-batch "
            f"{micro_batch} accumulates gradients; remove --gradient-release or --micro-batch",
            code=ErrorCode.OPTION_CONFLICT, option="--gradient-release", value=True,
        )  # fmt: skip
    if batch_size is not None and batch_size % (micro_batch * gpus):
        factors = f"--micro-batch × --gpus ({micro_batch} × {gpus})" if gpus > 1 else "--micro-batch"
        raise InputError(
            f"--micro-batch {micro_batch}: --batch-size {batch_size} must be divisible by {factors}; "
            f"use {_format_nearest_divisors(batch_size // gpus, micro_batch)}",
            code=ErrorCode.NOT_DIVISIBLE, option="--micro-batch", value=micro_batch,
        )  # fmt: skip


def releases_accumulated(situation: Situation) -> bool:
    """Return whether gradient release would free gradients that a run must accumulate over its micro-batches."""
    micro_batch, batch_size = situation.micro_batch, situation.batch_size
    return situation.gradient_release and micro_batch is not None and (batch_size or 1) > micro_batch * situation.gpus


def _format_nearest_divisors(number: int, rejected: int) -> str:
    """Return the nearest divisors of a number below and above a rejected one, as text.

    Example:
        >>> _format_nearest_divisors(64, 3)
        '2 or 4'
    """
    accepted = list_divisors(number)
    below = max((n for n in accepted if n < rejected), default=None)
    above = min((n for n in accepted if n > rejected), default=None)
    return " or ".join(str(n) for n in (below, above) if n is not None)


def list_sized_runs(rules: CompiledRules, situation: Situation) -> Iterator[tuple[range, Situation]]:
    """Yield the ranges of model sizes in which all defaults are the same, with the run that has these defaults.

    The ranges start with the smallest models and end where the rules reject a size.
    """
    cuts = [int(cut) for cut in rules.axes["params"].cuts]
    for low, high in pairwise([1, *cuts, (rules.catalog.facts["params"].max_value or cuts[-1]) + 1]):
        changes = rules.defaults.follow_change(situation, "params", low)
        if changes is None:
            return
        has_changed = not ESTIMATE_FACTS.isdisjoint(changes.keys() - {"params"})
        yield range(low, high), change_situation(rules, situation, changes) if has_changed else situation


def change_situation(rules: CompiledRules, situation: Situation, changes: FactValues) -> Situation:
    """Return a complete situation after changes.

    Args:
        rules: The compiled rules.
        situation: The situation before the changes.
        changes: New values by fact, including dependent defaults.
    """
    if situation.params is None and changes.get("params") is None:
        return replace(situation, **changes)
    return change_sized_run(rules.memory_rules, situation, changes)
