"""The cheapest changes after which a run fits.

Chains of changes are tried in the order of their effort (`rules/fixes.yaml`). Each is applied to the inputs, which are
completed again, so that defaults follow. No chain is returned that contains a shorter one that fits.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import is_sound_when_sharded
from optadvise.advice.fix_chains import (
    AppliedChain,
    CompiledFix,
    apply_chain,
    can_apply,
    compile_fixes,
    find_overruled,
    list_chains,
    rate_effort,
)
from optadvise.core.records import Fix, MemoryEstimate, Situation
from optadvise.memory import estimator
from optadvise.memory.inputs import select_memory_inputs

_MAX_CHAIN = 4  # changes; a longer chain is no advice
_MAX_BESIDE_GPUS = 2  # changes beside more GPUs
_MAX_DOUBLINGS = 9  # of the number of GPUs


def find_fixes(rules: CompiledRules, situation: Situation, estimate: MemoryEstimate) -> list[tuple[Fix, ...]]:
    """Return the cheapest chains of changes after which a run is expected to fit, the cheapest first.

    At most one for each training method, and one that adds GPUs; none where the run fits already.

    Args:
        rules: The compiled rules.
        situation: The run, with its optimizer and micro-batch.
        estimate: Its memory.
    """
    if situation.vram_bytes is None or estimate.model_states is None:
        return []
    if estimate.fits is not False and _fits(rules, situation):
        return []
    fixes = [fix for fix in compile_fixes(rules) if can_apply(rules, situation, fix)]
    fitting = _search_without_gpus(rules, situation, [fix for fix in fixes if not fix.adds_gpus])
    cheapest: dict[str, AppliedChain] = {}
    for chain in fitting:
        cheapest.setdefault(chain.situation.method, chain)
    chains = list(cheapest.values())
    with_gpus = _search_with_gpus(rules, situation, fixes, fitting)
    chains += [] if with_gpus is None else [with_gpus]
    return [_explain_chain(rules, situation, chain) for chain in sorted(chains, key=lambda chain: chain.effort)]


def _search_without_gpus(
    rules: CompiledRules, situation: Situation, fixes: Sequence[CompiledFix]
) -> list[AppliedChain]:
    """Return the chains after which the run fits, the cheapest first, without those that contain another."""
    fitting: list[AppliedChain] = []
    chains = list_chains(fixes, _MAX_CHAIN)
    for chain in sorted(chains, key=lambda chain: (rate_effort(situation, chain), len(chain))):
        ids = {fix.id for fix in chain}
        if any(shorter.ids < ids for shorter in fitting):
            continue
        applied = apply_chain(rules, situation, chain)
        if applied is not None and _is_solved(rules, situation, applied.situation):
            fitting.append(applied)
    return fitting


def _search_with_gpus(
    rules: CompiledRules, situation: Situation, fixes: Sequence[CompiledFix], fitting: Sequence[AppliedChain]
) -> AppliedChain | None:
    """Return the cheapest chain that adds GPUs; None where none makes the run fit.

    Args:
        rules: The compiled rules.
        situation: The run.
        fixes: The changes that can be made.
        fitting: Chains without more GPUs that fit; a chain that contains one of them is not tried.
    """
    cheapest: AppliedChain | None = None
    others = [fix for fix in fixes if not fix.adds_gpus and "method" not in fix.changes]
    for growth in (_with_sound_optimizer(rules, situation, fix) for fix in fixes if fix.adds_gpus):
        for beside in [(), *list_chains(others, _MAX_BESIDE_GPUS)]:
            if any(chain.ids <= {fix.id for fix in beside} for chain in fitting):
                continue
            applied = _double_gpus(rules, situation, (*beside, growth), cheapest)
            cheapest = cheapest if applied is None else applied
    return cheapest


def _double_gpus(
    rules: CompiledRules, situation: Situation, chain: Sequence[CompiledFix], cheapest: AppliedChain | None
) -> AppliedChain | None:
    """Return a chain with the fewest GPUs that fit; None where none do, or not with less effort than the cheapest."""
    for doublings in range(1, _MAX_DOUBLINGS + 1):
        applied = apply_chain(rules, situation, chain, situation.gpus * 2**doublings)
        if applied is None or (cheapest is not None and applied.effort >= cheapest.effort):
            return None
        if _is_solved(rules, situation, applied.situation):
            return applied
    return None


def _with_sound_optimizer(rules: CompiledRules, situation: Situation, growth: CompiledFix) -> CompiledFix:
    """Return a change to more GPUs, with the reference optimizer where the run's own would break on them."""
    shard = growth.changes.get("shard", situation.shard)
    after = replace(situation, gpus=2 * situation.gpus, shard=shard)
    reference = rules.reference_optimizer
    if is_sound_when_sharded(rules, after, situation.optimizer or ""):
        return growth
    if not is_sound_when_sharded(rules, after, reference):
        return growth
    return replace(growth, changes={**growth.changes, "optimizer": reference})


def _fits(rules: CompiledRules, situation: Situation) -> bool:
    return estimator.fits(rules.memory_rules, situation, situation.optimizer or "")


def _is_solved(rules: CompiledRules, before: Situation, after: Situation) -> bool:
    """Return whether a run fits after changes, without an optimizer that the changes made break."""
    is_as_requested = (after.optimizer, after.sharding) == (before.optimizer, before.sharding)
    return (is_as_requested or is_sound_when_sharded(rules, after, after.optimizer or "")) and _fits(rules, after)


def _explain_chain(rules: CompiledRules, situation: Situation, chain: AppliedChain) -> tuple[Fix, ...]:
    """Return each change of a chain with what the chain would require without it, and what it costs."""
    after = chain.situation
    required_bytes = _require(rules, after)
    pageable_bytes = estimator.estimate(rules.memory_rules, after, after.optimizer or "").pageable
    fixes = []
    for index, (fix, change) in enumerate(zip(chain.fixes, chain.changes, strict=True)):
        shorter = apply_chain(rules, situation, [*chain.fixes[:index], *chain.fixes[index + 1 :]], after.gpus)
        without = _require(rules, situation if shorter is None else shorter.situation)
        fixes.append(
            Fix(
                rule=fix.id, change=change, saves=without - required_bytes, needs=required_bytes,
                pageable=pageable_bytes, instead=find_overruled(situation, change), costs=fix.costs, cite=fix.cite,
            )
        )  # fmt: skip
    return tuple(fixes)


def _require(rules: CompiledRules, situation: Situation) -> int:
    """Return the bytes that a run requires of a GPU; 0 where its size is not known."""
    return (
        estimator.compute_required_bytes(rules.memory_rules, select_memory_inputs(situation), situation.optimizer or "")
        or 0
    )
