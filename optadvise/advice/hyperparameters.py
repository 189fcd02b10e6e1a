"""Hyperparameters of a run: the table that sets each, the steps that adjust it, and constructor arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import locate_card
from optadvise.core.advice_records import AdvisedHyperparameter, CompanionAdvice, HyperparameterStep
from optadvise.core.cards import Hyperparameter, Implementation, Optimizer, Scheduler, Value
from optadvise.core.records import Situation
from optadvise.rulebase.constructor import constructor_kwargs
from optadvise.rulebase.hyperparameters import RuleStep, adjust_all, format_value, set_by

# Table of each hyperparameter of the optimizer's constructor, and of each hyperparameter of the run.
_OPTIMIZER_TABLES = {"lr": "learning_rate", "weight_decay": "weight_decay", "betas": "betas", "eps": "eps"}
_RUN_TABLES = {
    "warmup_fraction": "warmup",
    "max_grad_norm": "clipping",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "layer_decay": "layer_decay",
    "ema_decay": "ema",
    "tokens_per_step": "batch_tokens",
}
# No part of an answer whose rule sets no value.
_OPTIONAL = ("lora_alpha", "lora_dropout", "layer_decay", "ema_decay", "tokens_per_step")
_PARAMETERS = {table: name for name, table in _OPTIMIZER_TABLES.items()}

Hyperparameters: TypeAlias = "dict[str, AdvisedHyperparameter]"


def is_table_read(table: str, optimizer: Optimizer, scheduler: Scheduler | None = None) -> bool:
    """Return whether a table is used for an optimizer.

    Args:
        table: Id of the table.
        optimizer: The card.
        scheduler: The schedule; None if it is not chosen yet.
    """
    if table in _PARAMETERS:
        parameter = optimizer.hyperparameter(_PARAMETERS[table])
        return parameter is not None and parameter.advised and optimizer.lr_scale != "custom"
    return table != _RUN_TABLES["warmup_fraction"] or scheduler is None or scheduler.warmup


def choose_hyperparameters(
    rules: CompiledRules, situation: Situation, optimizer: Optimizer, scheduler: Scheduler, cells: Mapping[str, int]
) -> Hyperparameters:
    """Return the hyperparameters of a run by name, those of the optimizer's constructor first.

    Args:
        rules: The compiled rules.
        situation: The run.
        optimizer: Optimizer of the run.
        scheduler: Schedule of the run.
        cells: Cells of all facts.
    """
    facts = {name: getattr(situation, name) for name in rules.scaling_facts}
    numbers = {}
    for parameter in optimizer.hyperparameters:
        table = _OPTIMIZER_TABLES.get(parameter.name)
        if table is not None and is_table_read(table, optimizer):
            numbers[parameter.name] = set_by(rules.tables[table].winner(cells), parameter.name, facts)
        else:
            numbers[parameter.name] = _take_card_value(optimizer, parameter, situation)
    for name, table in _RUN_TABLES.items():
        if not is_table_read(table, optimizer, scheduler):
            continue
        number = set_by(rules.tables[table].winner(cells), name, facts)
        if number.value is not None or name not in _OPTIONAL:
            numbers[name] = number
    return adjust_all(numbers, _list_adjustments(rules, optimizer, cells), facts)


def _take_card_value(optimizer: Optimizer, parameter: Hyperparameter, situation: Situation) -> AdvisedHyperparameter:
    """Return the value that published runs of this kind use, or else the default."""
    published = parameter.published
    if published and situation.model in published.model_types and situation.task in published.tasks:
        value, because, cite = published.value, published.because, published.cite
    else:
        value, because, cite = parameter.default, f"default of {optimizer.name}", optimizer.cite
    entry = HyperparameterStep(
        step=f"set {format_value(value)}", value=value, rule=optimizer.id, because=because, cite=cite,
        layer=optimizer.layer,
    )  # fmt: skip
    return AdvisedHyperparameter(
        name=parameter.name, value=value, low=parameter.low, high=parameter.high, derivation=(entry,)
    )


def _list_adjustments(rules: CompiledRules, optimizer: Optimizer, cells: Mapping[str, int]) -> Iterator[RuleStep]:
    """Yield the steps that adjust hyperparameters, those of the optimizer's card first."""
    for step in optimizer.adjust:
        yield RuleStep(rule=optimizer.id, layer=optimizer.layer, step=step)
    for rule in rules.tables["adjust"].matching(cells):
        for step in rule.steps:
            yield RuleStep(rule=rule.id, layer=rule.layer, step=step)


def build_companion(
    rules: CompiledRules, situation: Situation, optimizer: Optimizer, scheduler: Scheduler, cells: Mapping[str, int]
) -> CompanionAdvice | None:
    """Return the optimizer for tensors that an optimizer does not support, with its constructor arguments.

    Args:
        rules: The compiled rules.
        situation: The run.
        optimizer: Optimizer of the run.
        scheduler: Schedule of the run.
        cells: Cells of all facts.

    Returns:
        The companion; None if the optimizer supports all tensors.
    """
    if optimizer.companion is None:
        return None
    companion = rules.catalog.optimizer(optimizer.companion.optimizer)
    implementation = companion.implementations[0]
    cells = {**cells, **locate_card(rules, companion, implementation, situation)}
    hyperparameters = choose_hyperparameters(rules, situation, companion, scheduler, cells)
    kwargs = build_arguments(implementation, companion, hyperparameters, situation)
    return CompanionAdvice(implementation=implementation, kwargs=kwargs)


def build_arguments(
    implementation: Implementation, optimizer: Optimizer, hyperparameters: Hyperparameters, situation: Situation
) -> dict[str, Value]:
    """Return the constructor arguments of an implementation by name."""
    values = {parameter.name: hyperparameters[parameter.name].value for parameter in optimizer.hyperparameters}
    # Generated programs add the arguments for machines without a GPU when they run.
    return constructor_kwargs(implementation, values, device=None, sharding=situation.sharding, steps=situation.steps)
