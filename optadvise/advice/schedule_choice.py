"""The choice of a schedule for an optimizer, and its numbers for a run."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import locate, trace_rule
from optadvise.core import schedules
from optadvise.core.cards import Optimizer, Scheduler
from optadvise.core.records import AdvisedHyperparameter, ScheduleAdvice, Situation, TraceEntry
from optadvise.rulebase.table_records import Rule


class ScheduleChoice(Struct, frozen=True):
    """A schedule, the rule that chose it, and the reason that is traced."""

    scheduler: Scheduler
    rule: Rule
    trace: TraceEntry


def choose_schedule(rules: CompiledRules, optimizer: Optimizer, cells: Mapping[str, int]) -> ScheduleChoice:
    """Return the schedule for an optimizer: the one that the rules choose, unless its card excludes that.

    Args:
        rules: The compiled rules.
        optimizer: The card.
        cells: The cells of all facts so far.
    """
    rule = rules.tables["choose_schedule"].winner(cells)
    chosen = rule.choice.chosen
    scheduler = restrict_schedule(rules, optimizer, chosen)
    if scheduler.id == chosen:
        return ScheduleChoice(scheduler=scheduler, rule=rule, trace=trace_rule(rule))
    because = f"{optimizer.name} runs under {', '.join(optimizer.schedules or ())} only, so {chosen} is not taken"
    trace = TraceEntry(
        table="choose_schedule", rule=optimizer.id, because=because, cite=optimizer.cite, layer=optimizer.layer
    )
    return ScheduleChoice(scheduler=scheduler, rule=rule, trace=trace)


def restrict_schedule(rules: CompiledRules, optimizer: Optimizer, chosen: str) -> Scheduler:
    """Return a chosen schedule, or one that the optimizer's card allows, with a warmup if the chosen one has it."""
    scheduler = rules.catalog.scheduler(chosen)
    if optimizer.schedules is None or chosen in optimizer.schedules:
        return scheduler
    allowed = [rules.catalog.scheduler(name) for name in optimizer.schedules]
    return next((other for other in allowed if other.warmup == scheduler.warmup), allowed[0])


def find_default_warmup(rules: CompiledRules, scheduler: Scheduler) -> Rule:
    """Return the rule for the warmup of a schedule in a run of which nothing else is known."""
    cells = locate(rules, complete_situation(rules, {}))
    cells["schedule"] = rules.axes["schedule"].cell(scheduler.family)
    return rules.tables["warmup"].winner(cells)


def plan_schedule(
    choice: ScheduleChoice, situation: Situation, hyperparameters: Mapping[str, AdvisedHyperparameter]
) -> ScheduleAdvice:
    """Return a schedule with the numbers of a run.

    Args:
        choice: The schedule.
        situation: The run, for its steps.
        hyperparameters: By name; `lr`, and `warmup_fraction` where the schedule has a warmup.
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
    return schedules.resolve_schedule(choice.scheduler, peak, situation.steps, fraction, alternatives)
