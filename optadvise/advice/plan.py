"""Plan of a run: the cheapest choices of how to run it, after which it fits.

The changes of `rules/fixes.yaml` that are `chosen` are combined in the order of their effort. They never overrule a
specified input. The micro-batch is the largest that fits, so a plan does not contain it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.batch_and_steps import releases_accumulated
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.fix_chains import (
    CompiledFix,
    compile_fixes,
    is_sound_when_sharded,
    iterate_chains,
    meets,
)
from optadvise.core.advice_records import RunChoice
from optadvise.core.caching import cached
from optadvise.core.records import Situation
from optadvise.memory import estimator
from optadvise.memory.inputs import ESTIMATE_FACTS, select_memory_inputs
from optadvise.memory.search import find_max_model_size

MINOR_SHARE = 0.05  # of the required memory; smaller savings are ignored where a run does not fit
_SAME_RESULT = 3  # largest effort of changes by which at most time is lost
_FITS = "fits"  # memory pressure of a run that fits with the reference optimizer


class Plan(Struct, frozen=True):
    """Choices of how to run a training."""

    situation: Situation  # the run after the choices, without its micro-batch
    optimizer: str
    fixes: tuple[CompiledFix, ...]

    @property
    def pressure(self) -> str:
        """Return the memory pressure of the run, a value of the derived fact `memory`."""
        return next((fix.memory for fix in self.fixes if fix.memory is not None), _FITS)


@cached(8192)
def find_plan(rules: CompiledRules, situation: Situation, optimizer: str | None) -> Plan | None:
    """Return the cheapest plan with which a run of known size fits; None without one.

    Args:
        rules: The compiled rules.
        situation: A complete situation.
        optimizer: Optimizer of the run; None: the reference optimizer, which the plan may replace.
    """
    plain = _make_plain_plan(rules, situation, optimizer)
    if _fits_certainly(rules, plain):
        return plain
    fixes = _list_choices(rules, situation, optimizer)
    plans = _iterate_plans(rules, plain, fixes, lambda chain: _can_fit(rules, plain, chain))
    plan = next((plan for plan in plans if _fits(rules, plan)), None)
    if plan is None or _fits_certainly(rules, plan):
        return plan
    for fix in fixes:
        if fix.is_free and fix not in plan.fixes:
            plan = _apply(rules, plan, [fix]) or plan
    return _drop_idle(rules, plain, plan)


@cached(8192)
def find_nearest_plan(rules: CompiledRules, situation: Situation, optimizer: str | None) -> Plan:
    """Return the plan that fits; without one, the nearest plan by choices after which the result is the same.

    Args:
        rules: The compiled rules.
        situation: A complete situation of known size.
        optimizer: Optimizer of the run; None: the reference optimizer.
    """
    plan = find_plan(rules, situation, optimizer)
    if plan is not None:
        return plan
    plain = nearest = _make_plain_plan(rules, situation, optimizer)
    minor = MINOR_SHARE * _compute_required(rules, plain)
    for fix in _list_choices(rules, situation, optimizer):
        further_fixes = nearest.fixes[len(plain.fixes) :]
        beside = [other for other in further_fixes if other.changes.keys().isdisjoint(fix.changes)]
        further = _apply(rules, plain, [*beside, fix]) if fix.effort <= _SAME_RESULT else None
        if further is not None and _compute_required(rules, further) < _compute_required(rules, nearest) - minor:
            nearest = further
    return _drop_idle(rules, plain, nearest)


def plan_run(rules: CompiledRules, situation: Situation, optimizer: str | None) -> Situation:
    """Return a run with the choices of its plan, or of the plan nearest to fitting; itself without a known size."""
    return situation if situation.params is None else find_nearest_plan(rules, situation, optimizer).situation


def can_run(rules: CompiledRules, situation: Situation, optimizer: str) -> bool:
    """Return whether a run fits after the choices of its plan; True without a known size or limit."""
    is_limited = situation.params is not None and situation.vram_bytes is not None
    return not is_limited or find_plan(rules, situation, optimizer) is not None


def explain_choices(rules: CompiledRules, situation: Situation, run: Situation, optimizer: str) -> list[RunChoice]:
    """Return the choices by which a run differs from the situation that it was planned for, with their savings.

    Args:
        rules: The compiled rules.
        situation: The situation.
        run: The run that was planned for it, with its micro-batch.
        optimizer: Optimizer of the run.
    """
    plan = Plan(situation=situation, optimizer=optimizer, fixes=())
    if run.chosen:
        plan = find_nearest_plan(rules, situation, optimizer)
    choices = list(_explain_micro_batch(rules, plan, run))
    plain, required = replace(plan, situation=situation, fixes=()), _compute_required(rules, plan)
    for fix in plan.fixes:
        others = _apply(rules, plain, [other for other in plan.fixes if other != fix])
        saves = 0 if others is None else max(_compute_required(rules, others) - required, 0)
        choices.append(RunChoice(rule=fix.id, change=fix.changes, saves=saves, costs=fix.costs, cite=fix.cite))
    return choices


def _explain_micro_batch(rules: CompiledRules, plan: Plan, run: Situation) -> Iterator[RunChoice]:
    """Yield the choice of a micro-batch that is smaller than the batch of one GPU."""
    batch_per_gpu = (run.batch_size or 1) // run.gpus
    if "micro_batch" not in run.derived or run.micro_batch is None or run.micro_batch >= batch_per_gpu:
        return
    required = [
        _compute_required(rules, replace(plan, situation=replace(run, micro_batch=samples)))
        for samples in (batch_per_gpu, run.micro_batch)
    ]
    fix = next(fix for fix in compile_fixes(rules) if "micro_batch" in fix.changes)
    change = {"micro_batch": run.micro_batch}
    saves = max(required[0] - required[1], 0)
    yield RunChoice(rule=fix.id, change=change, saves=saves, costs=fix.costs, cite=fix.cite)


@cached(1)
def list_plan_facts(rules: CompiledRules) -> frozenset[str]:
    """Return the facts that a plan depends on."""
    chosen = [fix for fix in compile_fixes(rules) if fix.is_chosen]
    return ESTIMATE_FACTS | {name for fix in chosen for name in fix.box} | {"priority"}


@cached(1)
def list_chosen_facts(rules: CompiledRules) -> frozenset[str]:
    """Return the facts that plans choose."""
    return frozenset(name for fix in compile_fixes(rules) if fix.is_chosen for name in fix.changes)


# -- limits and sizes at which the plan changes -----------------------------------------------------------------------


def list_required_bytes(rules: CompiledRules, situation: Situation) -> list[int]:
    """Return the memory limits from which on cheaper plans fit, up to the first plan that fits the situation's limit.

    Args:
        rules: The compiled rules.
        situation: A complete situation of known size.
    """
    plain = _make_plain_plan(rules, situation, None)
    required: list[int] = []
    for plan in _iterate_plans(rules, plain, _list_choices(rules, situation, None)):
        required_bytes = _compute_required(rules, plan)
        if not required or required_bytes < required[-1]:
            required.append(required_bytes)
        if situation.vram_bytes is not None and required_bytes <= situation.vram_bytes:
            break
    return required


def list_largest_sizes(rules: CompiledRules, situation: Situation, sizes: range) -> Iterator[int]:
    """Yield the model sizes up to which plans fit, in parameters, the cheapest plan first; nothing without a limit.

    Args:
        rules: The compiled rules.
        situation: A complete situation.
        sizes: Model sizes with the defaults of the situation.
    """
    start = _make_plain_plan(rules, replace(situation, params=sizes.start), None)
    smallest = sizes.start

    def can_help(chain: Sequence[CompiledFix]) -> bool:
        return _can_fit(rules, _resize(start, smallest), chain)

    for plan in _iterate_plans(rules, start, _list_choices(rules, start.situation, None), can_help):
        if not _fits(rules, _resize(plan, smallest)):
            continue
        size = find_max_model_size(rules.memory_rules, plan.situation, plan.optimizer)
        if size is None or size.max_params not in sizes:
            return
        yield size.max_params
        smallest = size.max_params + 1


# -- the search -------------------------------------------------------------------------------------------------------


def _make_plain_plan(rules: CompiledRules, situation: Situation, optimizer: str | None) -> Plan:
    """Return a run with only those choices that its priority always makes."""
    plain = Plan(situation=situation, optimizer=optimizer or rules.reference_optimizer, fixes=())
    for fix in _list_choices(rules, situation, optimizer, is_always_made=True):
        plain = _apply(rules, plain, [fix]) or plain
    return plain


def _list_choices(
    rules: CompiledRules, situation: Situation, optimizer: str | None, *, is_always_made: bool = False
) -> list[CompiledFix]:
    """Return the changes that a plan may make, without those that another change must precede."""
    variable = list_chosen_facts(rules)
    stated = [name for name in situation.stated if name != "optimizer" or optimizer is not None]
    return [
        fix
        for fix in compile_fixes(rules)
        if fix.is_chosen
        and (fix.effort_by.get(situation.priority) == 0) == is_always_made
        and fix.changes.keys().isdisjoint(stated)
        and (optimizer is None or "optimizer" not in fix.changes)
        and meets(rules, situation, {name: mask for name, mask in fix.box.items() if name not in variable})
    ]


def _iterate_plans(
    rules: CompiledRules,
    plain: Plan,
    fixes: Sequence[CompiledFix],
    can_help: Callable[[Sequence[CompiledFix]], bool] = lambda fixes: True,
) -> Iterator[Plan]:
    """Yield the plans of a run by effort, whether they fit or not, except those whose changes cannot help."""
    for chain in iterate_chains(plain.situation, fixes, len(fixes), can_help):
        plan = _apply(rules, plain, chain)
        if plan is not None:
            yield plan


def _apply(rules: CompiledRules, plan: Plan, chain: Sequence[CompiledFix]) -> Plan | None:
    """Return a plan after further changes; None if the rules reject it or do not suggest it."""
    requested = plan.situation.optimizer
    before = run = replace(plan.situation, optimizer=plan.optimizer)
    for fix in chain:
        if not meets(rules, run, fix.box):
            return None
        run = replace(run, **fix.changes)
    optimizer = run.optimizer or plan.optimizer
    is_accepted = rules.defaults.accepts(run) and not releases_accumulated(run)
    is_suggested = rules.defaults.is_suggested(before, run) and is_sound_when_sharded(rules, run, optimizer)
    if chain and not (is_accepted and is_suggested):
        return None
    values = {name: getattr(run, name) for fix in chain for name in fix.changes if name != "optimizer"}
    situation = replace(plan.situation, optimizer=requested).choose(**values)
    return Plan(situation=situation, optimizer=optimizer, fixes=(*plan.fixes, *chain))


def _drop_idle(rules: CompiledRules, plain: Plan, plan: Plan) -> Plan:
    """Return a plan without the changes beyond those of a plain plan that save nothing in addition to the others.

    A change that lowers only the high end of the likely range is idle unless the run fits for certain because of it.
    """
    for fix in plan.fixes[len(plain.fixes) :]:
        others = [other for other in plan.fixes[len(plain.fixes) :] if other != fix]
        without = _apply(rules, plain, others)
        if without is None or _compute_required(rules, plan) < _compute_required(rules, without):
            continue
        if _fits_certainly(rules, without) or not _fits_certainly(rules, plan):
            plan = without
    return plan


def _resize(plan: Plan, params: int) -> Plan:
    return replace(plan, situation=replace(plan.situation, params=params))


def _can_fit(rules: CompiledRules, plain: Plan, fixes: Sequence[CompiledFix]) -> bool:
    """Return whether a run may fit: with all changes at once, even those that exclude each other."""
    changes = {name: value for fix in fixes for name, value in fix.changes.items() if name != "optimizer"}
    run = replace(plain.situation, **changes, micro_batch=plain.situation.micro_batch or 1, batch_size=None)
    optimizers = {plain.optimizer, *(str(fix.changes["optimizer"]) for fix in fixes if "optimizer" in fix.changes)}
    return any(estimator.fits(rules.memory_rules, run, optimizer) for optimizer in optimizers)


def _fits(rules: CompiledRules, plan: Plan) -> bool:
    return estimator.fits(rules.memory_rules, plan.situation, plan.optimizer)


def _fits_certainly(rules: CompiledRules, plan: Plan) -> bool:
    limit = plan.situation.vram_bytes
    return limit is None or (_fits(rules, plan) and _compute_bounds(rules, plan)[1] <= limit)


def _compute_bounds(rules: CompiledRules, plan: Plan) -> tuple[int, int]:
    """Return the expected and the highest GPU memory in bytes that a plan of known size requires."""
    highest = estimator.compute_highest_bytes(rules.memory_rules, select_memory_inputs(plan.situation), plan.optimizer)
    return _compute_required(rules, plan), highest


def _compute_required(rules: CompiledRules, plan: Plan) -> int:
    """Return the GPU memory in bytes that a plan requires; 0 if its size is unknown."""
    inputs = select_memory_inputs(plan.situation)
    return estimator.compute_required_bytes(rules.memory_rules, inputs, plan.optimizer) or 0
