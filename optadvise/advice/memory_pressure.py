"""Memory pressure: how the memory limit constrains a run, and the limits and sizes at which this changes."""

from __future__ import annotations

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.caching import cached
from optadvise.core.records import MemoryEstimate, Situation
from optadvise.memory import estimator
from optadvise.memory.inputs import select_memory_inputs
from optadvise.memory.optimizer_memory import estimate_optimizer_memory
from optadvise.memory.search import find_max_model_size

MINOR_SHARE = 0.05  # of the required memory; smaller savings of optimizer state are ignored


def classify_pressure(rules: CompiledRules, situation: Situation) -> str:
    """Return the value of the derived fact `memory`."""
    if situation.vram_bytes is None:
        return "unlimited"
    return "limited" if situation.params is None else _classify_sized(rules, situation)


@cached(8192)
def _classify_sized(rules: CompiledRules, situation: Situation) -> str:
    memory, inputs, reference = rules.memory_rules, select_memory_inputs(situation), rules.reference_optimizer
    if estimator.fits(memory, situation, reference):
        return "fits"
    required_bytes = estimator.compute_required_bytes(memory, inputs, reference)
    is_state_minor = required_bytes is not None and saved_state_bytes(rules, situation) < MINOR_SHARE * required_bytes
    if is_state_minor and estimator.knows_activations(memory, inputs):
        return "activations"
    return "tight" if estimator.fits(memory, situation, rules.compact_optimizer) else "too-small"


def saved_state_bytes(rules: CompiledRules, situation: Situation) -> int:
    """Return the bytes that the compact optimizer's state saves compared with the reference optimizer's."""
    memory, inputs = rules.memory_rules, select_memory_inputs(situation)
    reference = estimate_optimizer_memory(memory, inputs, rules.reference_optimizer).state
    return reference - estimate_optimizer_memory(memory, inputs, rules.compact_optimizer).state


def find_required_bytes(rules: CompiledRules, situation: Situation) -> list[int]:
    """Return the smallest limits at which the reference and the compact optimizer fit; empty for an unknown size."""
    names = (rules.reference_optimizer, rules.compact_optimizer)
    inputs = select_memory_inputs(situation)
    required = [estimator.compute_required_bytes(rules.memory_rules, inputs, name) for name in names]
    return [required_bytes for required_bytes in required if required_bytes is not None]


def find_largest_sizes(rules: CompiledRules, situation: Situation) -> list[int]:
    """Return the largest models for the reference and the compact optimizer, in parameters; empty without a limit."""
    names = (rules.reference_optimizer, rules.compact_optimizer)
    sizes = [find_max_model_size(rules.memory_rules, situation, name) for name in names]
    return [size.max_params for size in sizes if size is not None]


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
