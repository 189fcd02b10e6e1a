"""Completion of inputs: defaults of the rules, typical sample length, steps, and checks for contradictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from msgspec.structs import replace

from optadvise.advice.assumed_batch import assume_batch
from optadvise.advice.batch_and_steps import check_batch, derive_batch, derive_steps
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.records import FactValues, InputValue, Situation, read_shape
from optadvise.core.units import show_count
from optadvise.memory.estimator import change_sized_run, complete_length
from optadvise.memory.inputs import ESTIMATE_FACTS
from optadvise.memory.network_size import count_parameters

_NOTHING_STATED = Situation()
_LISTED_AS_UNKNOWN = ("model", "params", "vram_bytes", "batch_size")  # listed with the defaults if unknown


def complete_situation(rules: CompiledRules, inputs: FactValues) -> Situation:
    """Return the complete situation for specified inputs.

    Args:
        rules: The compiled rules.
        inputs: Specified values by fact; `shape` is a `NetworkShape`.

    Raises:
        InputError: Inputs contradict each other.
        RuleFileError: The rules have no default for the number of GPUs.
    """
    shape = read_shape(inputs)
    if shape is not None:
        inputs = {**inputs, "params": count_parameters(rules.memory_rules, shape)}
    filled = rules.defaults.fill(inputs)
    if "gpus" not in filled:
        folder = next((str(folder) for _, folder in rules.catalog.folders), "")
        raise RuleFileError(
            "the rules have no default for `gpus`; add one to assume.yaml", folder, code=ErrorCode.RULE_GAP
        )
    batch = derive_batch({**filled, "batch_size": inputs.get("batch_size")})  # a usual batch yields to it
    filled = rules.defaults.fill({**inputs, **batch}) if batch else filled
    _reject_contradictions(rules, filled)
    unknown = [name for name in _LISTED_AS_UNKNOWN if name not in filled]
    situation = replace(
        _NOTHING_STATED,
        **filled,
        stated=tuple(name for name, value in inputs.items() if value is not None),
        defaults=(*unknown, *(name for name in filled if name not in inputs and name not in batch)),
        derived=tuple(batch),
    )
    check_batch(situation)
    sized = situation if situation.params is None else complete_length(rules.memory_rules, situation)
    return derive_steps(assume_batch(rules, sized))


def _reject_contradictions(rules: CompiledRules, inputs: FactValues) -> None:
    contradiction = rules.defaults.find_contradiction(inputs)
    if contradiction is not None:
        options = _list_options(rules, inputs, contradiction.when)
        shown = " ".join(option if value is True else f"{option} {_show(value)}" for option, value in options.items())
        option, value = next(iter(options.items()), ("", None))
        raise InputError(
            f"{shown}: {contradiction.problem}; {contradiction.remedy}",
            code=ErrorCode.OPTION_CONFLICT, option=option, value=value,
        )  # fmt: skip


def _show(value: InputValue) -> str:
    """Return an option's value as text, with large numbers as they are usually entered, such as 20B."""
    return show_count(value) if isinstance(value, int) and value >= 1_000_000 else str(value)


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
        try:
            run = change_situation(rules, situation, changes) if has_changed else situation
        except InputError:
            continue
        yield range(low, high), run


def change_situation(rules: CompiledRules, situation: Situation, changes: FactValues) -> Situation:
    """Return a complete situation after changes.

    Args:
        rules: The compiled rules.
        situation: The situation before the changes.
        changes: New values by fact, including dependent defaults.

    Raises:
        InputError: The stated numbers lead to different numbers of steps after the changes.
    """
    is_unsized = situation.params is None and changes.get("params") is None
    after = replace(situation, **changes) if is_unsized else change_sized_run(rules.memory_rules, situation, changes)
    if "steps" not in situation.derived:
        return after
    return derive_steps(after if "batch_size" in changes else assume_batch(rules, after))
