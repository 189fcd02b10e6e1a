"""Alternative optimizers for a run, and the largest model that fits with each."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import list_sized_runs
from optadvise.advice.decide import Decision, is_rejected, list_other_policies
from optadvise.advice.fix_chains import is_sound_when_sharded
from optadvise.advice.plan import plan_run
from optadvise.core.advice_records import Alternative
from optadvise.core.caching import cached
from optadvise.core.records import MaxModelSize, Situation
from optadvise.memory.estimator import estimate
from optadvise.memory.optimizer_state import compute_state_bytes_per_parameter, list_state_tensors
from optadvise.memory.search import find_max_model_size, with_micro_batch


def list_alternatives(rules: CompiledRules, situation: Situation, decision: Decision) -> Iterator[Alternative]:
    """Yield the alternatives of the deciding rule, with their memory in the same run, as `--optimizer` would answer.

    Args:
        rules: The compiled rules.
        situation: The complete situation, without the choices of its plan.
        decision: The chosen optimizer.
    """
    dtype = "bfloat16" if situation.precision == "bf16" else "float32"
    for name, because in _list_candidates(rules, situation, decision):
        bytes_per_parameter = count_state_bytes(rules, name, dtype)
        if situation.params is None:
            yield Alternative(
                id=name, because=because, optimizer_bytes=None, state_bytes_per_parameter=bytes_per_parameter, fits=None
            )
            continue
        run = with_micro_batch(rules.memory_rules, plan_run(rules, situation, name), name)
        memory = estimate(rules.memory_rules, run, name)
        yield Alternative(
            id=name,
            because=because,
            optimizer_bytes=memory.optimizer,
            state_bytes_per_parameter=bytes_per_parameter,
            fits=memory.fits,
        )


def _list_candidates(rules: CompiledRules, situation: Situation, decision: Decision) -> Iterator[tuple[str, str]]:
    """Yield the ids of other optimizers with reasons, without those that do not work in this run."""
    rule = decision.rules.optimizer
    candidates = {rule.choice.chosen: rule.because, **rule.choice.alternatives}
    for answer in list_other_policies(rules, situation, decision):
        candidates.setdefault(answer.optimizer, f"by --policy {answer.policy}: {answer.because}")
    for name, because in candidates.items():
        if name == decision.optimizer.id or is_rejected(rules, situation, name):
            continue
        is_suggested = rules.defaults.is_suggested(situation, replace(situation, optimizer=name))
        if is_suggested and is_sound_when_sharded(rules, situation, name):
            yield name, because


def find_max_model_sizes(rules: CompiledRules, situation: Situation, decision: Decision) -> Iterator[MaxModelSize]:
    """Yield the largest model for the optimizer and its alternatives, if a memory limit but no model size is known."""
    if situation.params is not None or situation.vram_bytes is None:
        return
    names = [decision.optimizer.id, *(name for name, _ in _list_candidates(rules, situation, decision))]
    for name in dict.fromkeys(names):
        size = _find_max_model_size(rules, situation, name)
        if size is not None:
            yield size


def _find_max_model_size(rules: CompiledRules, situation: Situation, optimizer: str) -> MaxModelSize | None:
    """Return the size up to which every model fits, with the defaults that each size has; None for a known shape.

    It is 0 if not even the smallest accepted size fits.
    """
    size, smallest = None, rules.catalog.facts["params"].min_value or 0
    for sizes, run in list_sized_runs(rules, situation):
        larger = find_max_model_size(rules.memory_rules, run, optimizer)
        if larger is None or larger.max_params < sizes.start:
            break
        size = larger
        if larger.max_params < sizes.stop - 1:
            break
        size = replace(larger, max_params=sizes.stop - 1)
    if size is not None and size.max_params < smallest:
        return replace(size, max_params=0, bytes_per_parameter=0.0)
    return size


@cached(8192)
def count_state_bytes(rules: CompiledRules, optimizer: str, dtype: str) -> float:
    """Return the bytes of optimizer state per trained parameter.

    Args:
        rules: The compiled rules.
        optimizer: Id of the optimizer.
        dtype: Type of the parameters: float32 or bfloat16.
    """
    return compute_state_bytes_per_parameter(list_state_tensors(rules.catalog.optimizer(optimizer)), dtype)
