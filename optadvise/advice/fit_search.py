"""Search for the cheapest changes after which a run fits.

Chains of changes are tried in the order of their effort (`rules/fixes.yaml`). The changed inputs are completed again,
so that defaults follow. A chain that contains a shorter fitting chain is not returned.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.fix_chains import (
    AppliedChain,
    CompiledFix,
    apply_chain,
    can_apply,
    compile_fixes,
    find_overruled,
    is_sound_when_sharded,
    iterate_chains,
    rate_effort,
)
from optadvise.core.cards import SHARDING_LABELS
from optadvise.core.records import Fix, MemoryEstimate, Situation
from optadvise.memory import estimator
from optadvise.memory.inputs import select_memory_inputs

_MAX_CHAIN = 5  # changes; longer chains are not useful
_MAX_BESIDE_GPUS = 2  # changes in addition to more GPUs
_MAX_DOUBLINGS = 9  # of the number of GPUs


def find_fixes(rules: CompiledRules, situation: Situation, estimate: MemoryEstimate) -> list[tuple[Fix, ...]]:
    """Return the cheapest chains of changes after which a run is expected to fit, cheapest first.

    The result has at most one chain for each training method and one that adds GPUs; where each adds GPUs, at most one
    for each training method. It is empty if the run fits.

    Args:
        rules: The compiled rules.
        situation: The run with its optimizer and micro-batch.
        estimate: Memory of the run.
    """
    if situation.vram_bytes is None or estimate.model_states is None:
        return []
    if estimate.fits is not False and _fits(rules, situation):
        return []
    fixes = [fix for fix in compile_fixes(rules) if can_apply(rules, situation, fix)]
    fitting = _search_without_gpus(rules, situation, [fix for fix in fixes if not fix.adds_gpus])
    with_gpus = _search_with_gpus(rules, situation, fixes, fitting)
    chains = sorted([*fitting, *with_gpus], key=lambda chain: chain.effort)
    return [_explain_chain(rules, situation, chain) for chain in chains]


def _search_without_gpus(
    rules: CompiledRules, situation: Situation, fixes: Sequence[CompiledFix]
) -> list[AppliedChain]:
    """Return the cheapest fitting chain without more GPUs of each training method, cheapest first."""
    cheapest: dict[str, AppliedChain] = {}
    open_methods = {str(fix.changes["method"]) for fix in fixes if "method" in fix.changes} | {situation.method}
    for chain in iterate_chains(situation, fixes, _MAX_CHAIN):
        method = next((str(fix.changes["method"]) for fix in chain if "method" in fix.changes), situation.method)
        if method not in open_methods:
            continue
        applied = apply_chain(rules, situation, chain)
        if applied is not None and _is_solved(rules, situation, applied.situation):
            cheapest[method] = applied
            open_methods.remove(method)
            if not open_methods:
                break
    return list(cheapest.values())


def _search_with_gpus(
    rules: CompiledRules, situation: Situation, fixes: Sequence[CompiledFix], fitting: Sequence[AppliedChain]
) -> list[AppliedChain]:
    """Return the cheapest fitting chain that adds GPUs.

    Where no chain fits without more GPUs, other training methods follow that fit on fewer GPUs.

    Args:
        rules: The compiled rules.
        situation: The run.
        fixes: Applicable changes.
        fitting: Fitting chains without more GPUs; chains that contain one of them are skipped.
    """
    others = [fix for fix in fixes if not fix.adds_gpus and "method" not in fix.changes]
    methods = [[fix] for fix in fixes if "method" in fix.changes] if not fitting else []
    chains: list[AppliedChain] = []
    for method in ([], *methods):
        cheapest: AppliedChain | None = None
        for growth in (_with_sound_optimizer(rules, situation, fix) for fix in fixes if fix.adds_gpus):
            for beside in iterate_chains(situation, others, _MAX_BESIDE_GPUS):
                if any(chain.ids <= {fix.id for fix in beside} for chain in fitting):
                    continue
                applied = _double_gpus(rules, situation, (*method, *beside, growth), cheapest)
                cheapest = cheapest if applied is None else applied
        if cheapest is not None and all(cheapest.situation.gpus < chain.situation.gpus for chain in chains):
            chains.append(cheapest)
    return chains


def _double_gpus(
    rules: CompiledRules, situation: Situation, chain: Sequence[CompiledFix], cheapest: AppliedChain | None
) -> AppliedChain | None:
    """Return a chain with the fewest GPUs that fit; None if none fit with less effort than the cheapest chain."""
    for doublings in range(1, _MAX_DOUBLINGS + 1):
        gpus = situation.gpus * 2**doublings
        if cheapest is not None and rate_effort(situation, chain, gpus) >= cheapest.effort:
            return None
        applied = apply_chain(rules, situation, chain, gpus)
        if applied is None:
            return None
        if _is_solved(rules, situation, applied.situation):
            return applied
    return None


def _with_sound_optimizer(rules: CompiledRules, situation: Situation, growth: CompiledFix) -> CompiledFix:
    """Return a change to more GPUs, with the reference optimizer if the current one would break."""
    shard = growth.changes.get("shard", situation.shard)
    sharded = replace(situation, gpus=2 * situation.gpus, shard=shard)
    reference = rules.reference_optimizer
    if is_sound_when_sharded(rules, sharded, situation.optimizer or ""):
        return growth
    if not is_sound_when_sharded(rules, sharded, reference):
        return growth
    label = SHARDING_LABELS[sharded.sharding or ""]
    reason = f"{situation.optimizer} does not work with {label}"
    changes = {**growth.changes, "optimizer": reference}
    return replace(growth, changes=changes, costs=f"{growth.costs}; {reason}")


def _fits(rules: CompiledRules, situation: Situation) -> bool:
    return estimator.fits(rules.memory_rules, situation, situation.optimizer or "")


def _is_solved(rules: CompiledRules, before: Situation, after: Situation) -> bool:
    """Return whether a run fits after changes that can be suggested, and its optimizer does not break by them."""
    if not rules.defaults.is_suggested(before, after):
        return False
    is_as_requested = (after.optimizer, after.sharding) == (before.optimizer, before.sharding)
    return (is_as_requested or is_sound_when_sharded(rules, after, after.optimizer or "")) and _fits(rules, after)


def _explain_chain(rules: CompiledRules, situation: Situation, chain: AppliedChain) -> tuple[Fix, ...]:
    """Return the changes of a chain with their costs and savings against the chain without them."""
    after = chain.situation
    required_bytes = _compute_required(rules, after)
    pageable_bytes = estimator.estimate(rules.memory_rules, after, after.optimizer or "").pageable
    fixes = []
    for index, (fix, change) in enumerate(zip(chain.fixes, chain.changes, strict=True)):
        shorter = apply_chain(rules, situation, [*chain.fixes[:index], *chain.fixes[index + 1 :]], after.gpus)
        without = _compute_required(rules, situation if shorter is None else shorter.situation)
        fixes.append(
            Fix(
                rule=fix.id, change=change, saves=without - required_bytes, needs=required_bytes,
                pageable=pageable_bytes, instead=find_overruled(situation, change), costs=fix.costs, cite=fix.cite,
            )
        )  # fmt: skip
    return tuple(fixes)


def _compute_required(rules: CompiledRules, situation: Situation) -> int:
    """Return the GPU memory in bytes that a run requires; 0 if its size is unknown."""
    return (
        estimator.compute_required_bytes(rules.memory_rules, select_memory_inputs(situation), situation.optimizer or "")
        or 0
    )
