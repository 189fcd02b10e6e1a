"""Choice of a schedule for an optimizer, and its steps for a run."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import locate, trace_rule
from optadvise.core import schedules
from optadvise.core.advice_records import AdvisedHyperparameter, ScheduleAdvice, TraceEntry
from optadvise.core.cards import Optimizer, Scheduler
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import Situation
from optadvise.rulebase.table_records import Rule


class ScheduleChoice(Struct, frozen=True):
    """A schedule, the rule that chose it, and its trace entry."""

    scheduler: Scheduler
    rule: Rule
    trace: TraceEntry


def choose_schedule(
    rules: CompiledRules, optimizer: Optimizer, cells: Mapping[str, int], requested: str | None = None
) -> ScheduleChoice:
    """Return the schedule for an optimizer: the requested one, or the choice of the rules unless the card excludes it.

    Args:
        rules: The compiled rules.
        optimizer: The card.
        cells: Cells of all known facts.
        requested: Schedule that the user requested.

    Raises:
        InputError: The card excludes the requested schedule.
    """
    rule = rules.tables["choose_schedule"].winner(cells)
    chosen = rule.choice.chosen
    if requested is not None:
        return _use_requested(rules, optimizer, rule, requested)
    scheduler = restrict_schedule(rules, optimizer, chosen)
    if scheduler.id == chosen:
        return ScheduleChoice(scheduler=scheduler, rule=rule, trace=trace_rule(rule))
    because = f"{optimizer.name} requires one of these schedules: {', '.join(optimizer.schedules or ())}"
    trace = TraceEntry(
        table="choose_schedule", rule=optimizer.id, because=because, cite=optimizer.cite, layer=optimizer.layer
    )
    return ScheduleChoice(scheduler=scheduler, rule=rule, trace=trace)


def _use_requested(rules: CompiledRules, optimizer: Optimizer, rule: Rule, requested: str) -> ScheduleChoice:
    """Return the requested schedule; the trace has the choice of the rules if it differs."""
    if optimizer.schedules is not None and requested not in optimizer.schedules:
        accepted = ", ".join(optimizer.schedules)
        raise InputError(
            f"--schedule {requested}: {optimizer.name} requires {accepted}; use it, or another optimizer",
            code=ErrorCode.OPTION_CONFLICT, option="--schedule", value=requested,
        )  # fmt: skip
    trace, chosen = trace_rule(rule), rule.choice.chosen
    if chosen != requested:
        because = f"Specified with --schedule; otherwise optadvise recommends {chosen}: {rule.because}"
        trace = replace(trace, because=because)
    return ScheduleChoice(scheduler=rules.catalog.scheduler(requested), rule=rule, trace=trace)


def restrict_schedule(rules: CompiledRules, optimizer: Optimizer, chosen: str) -> Scheduler:
    """Return a chosen schedule, or one that the optimizer's card allows, preferably with equal use of warmup."""
    scheduler = rules.catalog.scheduler(chosen)
    if optimizer.schedules is None or chosen in optimizer.schedules:
        return scheduler
    allowed = [rules.catalog.scheduler(name) for name in optimizer.schedules]
    return next((other for other in allowed if other.warmup == scheduler.warmup), allowed[0])


def find_default_warmup(rules: CompiledRules, scheduler: Scheduler) -> Rule:
    """Return the rule that sets the warmup of a schedule for a run without other inputs."""
    cells = locate(rules, complete_situation(rules, {}))
    cells["schedule"] = rules.axes["schedule"].cell(scheduler.family)
    return rules.tables["warmup"].winner(cells)


def plan_schedule(
    choice: ScheduleChoice, situation: Situation, hyperparameters: Mapping[str, AdvisedHyperparameter]
) -> ScheduleAdvice:
    """Return a schedule with the steps and learning rates of a run.

    Args:
        choice: The schedule.
        situation: The run with its number of steps.
        hyperparameters: `lr`, and `warmup_fraction` if the schedule has a warmup.
    """
    warmup = hyperparameters.get("warmup_fraction")
    fraction = 0.0 if warmup is None else warmup.value
    peak = hyperparameters["lr"].value
    assert isinstance(fraction, (int, float))
    assert isinstance(peak, (int, float))
    alternatives = {
        name: because for name, because in choice.rule.choice.alternatives.items()
        if name != choice.scheduler.id
    }  # fmt: skip
    scheduler = choice.scheduler.for_model(situation.model)
    return schedules.resolve_schedule(scheduler, peak, situation.steps, fraction, alternatives)
