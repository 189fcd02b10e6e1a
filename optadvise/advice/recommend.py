"""Recommendation for a situation: optimizer, memory, schedule, hyperparameters and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from optadvise.advice.alternatives import find_max_model_sizes, list_alternatives
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import Decision, decide, list_other_policies, locate_choices, trace_decision
from optadvise.advice.hyperparameters import build_arguments, build_companion, choose_hyperparameters
from optadvise.advice.memory_pressure import locate_estimate
from optadvise.advice.plan import can_run, explain_choices, plan_run
from optadvise.advice.published import list_published
from optadvise.advice.schedule_choice import choose_schedule, plan_schedule
from optadvise.advice.sensitivity import find_sensitivities
from optadvise.advice.support import find_support
from optadvise.core.advice_records import AdviceWarning, Recommendation, TraceEntry
from optadvise.core.records import FactValues, MemoryEstimate, Situation
from optadvise.memory.breakdown import estimate_unknown_size
from optadvise.memory.estimator import estimate
from optadvise.memory.search import with_micro_batch


def recommend(rules: CompiledRules, situation: Situation) -> Recommendation:
    """Return the advice for a complete situation.

    Args:
        rules: The compiled rules.
        situation: A complete situation.

    Raises:
        RuleFileError: No rule or several rules apply.
    """
    decision = decide(rules, situation)
    optimizer = decision.optimizer
    run = with_micro_batch(rules.memory_rules, plan_run(rules, situation, optimizer.id), optimizer.id)
    estimate = estimate_memory(rules, run, optimizer.id)
    cells = {**decision.cells, **locate_choices(rules, run), **locate_estimate(rules, run, estimate)}
    schedule = choose_schedule(rules, optimizer, cells, situation.schedule)
    cells["schedule"] = rules.axes["schedule"].cell(schedule.scheduler.family)
    hyperparameters = choose_hyperparameters(rules, run, optimizer, schedule.scheduler, cells)
    implementation = optimizer.implementations[0]
    sizes = {size.optimizer: size for size in find_max_model_sizes(rules, run, decision)}
    largest = sizes[optimizer.id].max_params if optimizer.id in sizes else None
    return Recommendation(
        situation=run,
        optimizer=optimizer,
        implementation=implementation,
        kwargs=build_arguments(implementation, optimizer, hyperparameters, run),
        companion=build_companion(rules, run, optimizer, schedule.scheduler, cells),
        hyperparameters=tuple(hyperparameters.values()),
        schedule=plan_schedule(schedule, run, hyperparameters),
        memory=estimate,
        choices=tuple(explain_choices(rules, situation, run, optimizer.id)),
        max_model_sizes=tuple(sizes.values()),
        alternatives=tuple(list_alternatives(rules, situation, decision)),
        warnings=tuple(_list_warnings(rules, cells)),
        trace=(*_trace_with_support(rules, decision, situation.model), schedule.trace),
        # The plan and the micro-batch follow from the inputs, so sensitivities start from the situation without them.
        sensitivities=() if situation.optimizer else find_sensitivities(rules, situation, decision),
        published=list_published(rules, run, optimizer.id, largest),
        policies=tuple(
            replace(answer, fits=can_run(rules, replace(situation, policy=answer.policy), answer.optimizer))
            if situation.params is not None and situation.vram_bytes is not None
            else answer
            for answer in list_other_policies(rules, situation, decision)
        ),
        fingerprint=rules.catalog.fingerprint,
        layers=rules.catalog.layers,
    )


def advise(rules: CompiledRules, inputs: FactValues) -> Recommendation:
    """Return the advice for specified inputs.

    Args:
        rules: The compiled rules.
        inputs: Specified values by fact.

    Raises:
        InputError: Inputs contradict each other.
        RuleFileError: No rule or several rules apply.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> advise(CompiledRules(load()), {"model": "transformer"}).optimizer.id
        'adamw'
    """
    return recommend(rules, complete_situation(rules, inputs))


def _trace_with_support(rules: CompiledRules, decision: Decision, model: str | None) -> tuple[TraceEntry, TraceEntry]:
    """Return the trace of a decision, with the published runs of the kind of model behind the choice."""
    concern, choice = trace_decision(decision)
    support = None if decision.is_overruled else find_support(rules, decision.rules.optimizer.id, model)
    return concern, replace(choice, support=support)


def estimate_memory(rules: CompiledRules, run: Situation, optimizer: str) -> MemoryEstimate:
    """Return the memory estimate of a run; without figures if its size is unknown."""
    if run.params is None:
        return estimate_unknown_size(run.vram_bytes)
    return estimate(rules.memory_rules, run, optimizer)


def _list_warnings(rules: CompiledRules, cells: Mapping[str, int]) -> Iterator[AdviceWarning]:
    for rule in rules.tables["warn"].matching(cells):
        yield AdviceWarning(
            id=rule.id, level=rule.warning.level, text=rule.warning.text, cite=rule.cite, layer=rule.layer
        )
