"""Explanation why the rules do not choose another optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import Decision, decide
from optadvise.advice.plan import find_plan
from optadvise.advice.probes import is_changeable, is_relevant
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, Situation
from optadvise.rule_analysis.smallest_changes import InputChange, find_smallest_changes
from optadvise.rulebase.near_misses import NearMiss, explain_miss, list_near_misses, sort_misses

_CHAIN = ("concern", "choose_optimizer", "choose_schedule")
_MAX_LISTED = 3  # maximum number of rules, and of changes


class TableDecision(Struct, frozen=True):
    """Rule of a table that decided, and the nearest other rules."""

    table: str
    rule: str
    near: tuple[NearMiss, ...]


class WhyNot(Struct, frozen=True):
    """Reasons why the rules do not choose an optimizer."""

    optimizer: str
    answer: str  # recommended optimizer
    refused: str | None  # why the optimizer conflicts with the inputs
    fits: bool | None  # whether the run fits with it; None without a model size or memory limit
    rows: tuple[NearMiss, ...]  # rules that choose it, the nearest first
    concerns: Mapping[str, NearMiss]  # nearest rule for each concern that these rules require
    beside: str | None  # reason if the deciding rule lists it as an alternative
    changes: tuple[InputChange, ...]  # smallest changes after which the rules choose it, the easiest first


def explain_decisions(rules: CompiledRules, situation: Situation) -> tuple[TableDecision, ...]:
    """Return for each table of the chain the rule that decided and the nearest rules that options can make decide."""
    cells = decide(rules, situation).cells
    return tuple(
        TableDecision(
            table=name,
            rule=rules.tables[name].winner(cells).id,
            near=tuple(
                miss
                for miss in list_near_misses(rules.tables[name], cells, rules.axes)
                if all(_is_option(rules, situation, condition.fact) for condition in miss.missed)
            )[:_MAX_LISTED],
        )
        for name in _CHAIN
    )


def _is_option(rules: CompiledRules, situation: Situation, name: str) -> bool:
    """Return whether an option sets a fact, and another value makes sense for the run."""
    fact = rules.catalog.facts[name]
    return fact.flag is not None and is_relevant(fact, situation) and is_changeable(rules, name, situation)


def explain_why_not(rules: CompiledRules, inputs: FactValues, optimizer: str) -> WhyNot:
    """Return why the rules do not choose an optimizer."""
    situation = complete_situation(rules, inputs)
    decision = decide(rules, situation)
    is_answer = decision.optimizer.id == optimizer
    rows = _list_rows(rules, decision, optimizer)[:_MAX_LISTED]
    return WhyNot(
        optimizer=optimizer,
        answer=decision.optimizer.id,
        refused=_find_rejection(rules, inputs, optimizer),
        fits=_fits(rules, situation, optimizer),
        rows=tuple(rows),
        concerns=_explain_concerns(rules, decision, rows),
        beside=decision.rules.optimizer.choice.alternatives.get(optimizer),
        changes=() if is_answer else find_smallest_changes(rules, inputs, optimizer)[:_MAX_LISTED],
    )


def _list_rows(rules: CompiledRules, decision: Decision, optimizer: str) -> list[NearMiss]:
    """Return the rules that choose an optimizer, the nearest first."""
    table, winner = rules.tables["choose_optimizer"], decision.rules.optimizer
    choosing = (rule for rule in table.all_rules if rule.choice.chosen == optimizer)
    return sort_misses(explain_miss(rule, decision.cells, rules.axes, winner) for rule in choosing)


def _fits(rules: CompiledRules, situation: Situation, optimizer: str) -> bool | None:
    if situation.params is None or situation.vram_bytes is None:
        return None
    return find_plan(rules, situation, optimizer) is not None


def _find_rejection(rules: CompiledRules, inputs: FactValues, optimizer: str) -> str | None:
    """Return why an optimizer conflicts with inputs; None if it does not."""
    try:
        complete_situation(rules, {**inputs, "optimizer": optimizer})
    except InputError as error:
        return str(error)
    return None


def _explain_concerns(rules: CompiledRules, decision: Decision, rows: Sequence[NearMiss]) -> dict[str, NearMiss]:
    """Return for each concern that rules require the nearest rule with that concern."""
    axis = rules.axes["concern"]
    accepted = 0
    for condition in (condition for row in rows for condition in row.missed):
        accepted |= condition.accepted if condition.fact == "concern" else 0
    nearest: dict[str, NearMiss] = {}
    for rule in rules.tables["concern"].all_rules:
        concern = rule.derived["concern"]
        if accepted >> axis.cell(concern) & 1:
            miss = explain_miss(rule, decision.cells, rules.axes, decision.rules.concern)
            if concern not in nearest or len(miss.missed) < len(nearest[concern].missed):
                nearest[concern] = miss
    return nearest
