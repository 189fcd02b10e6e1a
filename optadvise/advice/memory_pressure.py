"""Memory pressure: how the memory limit constrains a run, and the limits and sizes at which this changes."""

from __future__ import annotations

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.plan import MINOR_SHARE, find_plan, list_chosen_facts, plan_run
from optadvise.core.caching import cached
from optadvise.core.records import MemoryEstimate, Situation
from optadvise.memory import estimator
from optadvise.memory.inputs import select_memory_inputs
from optadvise.memory.optimizer_memory import estimate_optimizer_memory


def classify_pressure(rules: CompiledRules, situation: Situation) -> str:
    """Return the value of the derived fact `memory`."""
    if situation.vram_bytes is None:
        return "unlimited"
    return "limited" if situation.params is None else _classify_sized(rules, situation)


@cached(8192)
def _classify_sized(rules: CompiledRules, situation: Situation) -> str:
    plan = find_plan(rules, situation, None)
    if plan is not None:
        return plan.pressure
    memory, inputs = rules.memory_rules, select_memory_inputs(situation)
    required_bytes = estimator.compute_required_bytes(memory, inputs, rules.reference_optimizer)
    is_state_minor = required_bytes is not None and saved_state_bytes(rules, situation) < MINOR_SHARE * required_bytes
    return "activations" if is_state_minor and estimator.knows_activations(memory, inputs) else "too-small"


def locate_plan(rules: CompiledRules, situation: Situation) -> dict[str, int]:
    """Return the cells of the fact `memory`, and of the deciding facts that a plan can choose."""
    is_sized = situation.params is not None and situation.vram_bytes is not None
    run = plan_run(rules, situation, None) if is_sized else situation
    chosen = list_chosen_facts(rules).intersection(rules.deciding_facts) - {"optimizer"}
    cells = {name: rules.axes[name].cell(getattr(run, name)) for name in chosen}
    return {**cells, "memory": rules.axes["memory"].cell(classify_pressure(rules, situation))}


def saved_state_bytes(rules: CompiledRules, situation: Situation) -> int:
    """Return the bytes that the compact optimizer's state saves compared with the reference optimizer's."""
    memory, inputs = rules.memory_rules, select_memory_inputs(situation)
    reference = estimate_optimizer_memory(memory, inputs, rules.reference_optimizer).state
    return reference - estimate_optimizer_memory(memory, inputs, rules.compact_optimizer).state


def locate_estimate(rules: CompiledRules, situation: Situation, estimate: MemoryEstimate) -> dict[str, int]:
    """Return the cells of the facts `fits` and `state_share`, which follow from a memory estimate."""
    state_share = None
    if estimate.total is not None:
        state_share = "minor" if saved_state_bytes(rules, situation) < MINOR_SHARE * estimate.total else "notable"
    return {
        "fits": rules.axes["fits"].cell(_classify_fit(rules, estimate)),
        "state_share": rules.axes["state_share"].cell(state_share),
    }


def _classify_fit(rules: CompiledRules, estimate: MemoryEstimate) -> str | None:
    """Return whether a run fits (no, close or yes); None if its size or the limit is unknown."""
    if estimate.model_states is None or estimate.available is None:
        return None
    if estimate.fits is False:
        return "no"
    usable_bytes = estimate.available * (1 - rules.memory_rules.settings.headroom)
    is_certain = estimate.fits if estimate.total is not None else estimate.model_states <= usable_bytes
    return "yes" if is_certain else "close"
