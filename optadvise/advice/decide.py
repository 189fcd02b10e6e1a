"""Choice of the optimizer: the cells of a situation's facts, and the two rules that match them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.memory_pressure import locate_plan
from optadvise.core.advice_records import PolicyAnswer, TraceEntry
from optadvise.core.caching import cached
from optadvise.core.cards import AGREES, FactValue, Implementation, Optimizer
from optadvise.core.records import Situation
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Axis


class DecidingRules(Struct, frozen=True):
    """Rules that choose the optimizer."""

    concern: Rule
    optimizer: Rule


class Decision(Struct, frozen=True):
    """Optimizer of a situation, the rules that chose it, and the cells of the facts."""

    cells: Mapping[str, int]
    rules: DecidingRules
    optimizer: Optimizer  # the requested one, otherwise the choice of the rules

    @property
    def is_overruled(self) -> bool:
        """Return whether the requested optimizer differs from the choice of the rules."""
        return bool(self.optimizer.id != self.rules.optimizer.choice.chosen)


def decide(rules: CompiledRules, situation: Situation) -> Decision:
    """Return the optimizer of a complete situation with the deciding rules.

    Raises:
        RuleFileError: No rule or several rules apply.
    """
    cells = locate(rules, situation)
    choice = decide_at(rules, tuple([cells[name] for name in rules.deciding_facts]))
    cells["concern"] = rules.axes["concern"].cell(choice.concern.derived["concern"])
    optimizer = rules.catalog.optimizer(situation.optimizer or choice.optimizer.choice.chosen)
    cells.update(locate_card(rules, optimizer, optimizer.implementations[0], situation))
    return Decision(cells=cells, rules=choice, optimizer=optimizer)


def locate(rules: CompiledRules, situation: Situation) -> dict[str, int]:
    """Return the cells of a situation's facts, with the derived fact `memory` and what its plan chooses."""
    cells = {name: axis.cell(getattr(situation, name)) for name, axis in rules.input_axes}
    cells.update(locate_plan(rules, situation))
    return cells


def locate_choices(rules: CompiledRules, run: Situation) -> dict[str, int]:
    """Return the cells of the facts whose values a run's plan chose, with its micro-batch."""
    return {name: rules.axes[name].cell(getattr(run, name)) for name in (*run.chosen, "micro_batch")}


@cached(8192)
def decide_at(rules: CompiledRules, point: tuple[int, ...]) -> DecidingRules:
    """Return the rules that choose the optimizer for a combination of cells.

    Args:
        rules: The compiled rules.
        point: Cells of `rules.deciding_facts`, in this order.
    """
    concern_table, optimizer_table = rules.deciding_tables
    cells = dict(zip(rules.deciding_facts, point, strict=True))
    concern = concern_table.winner(cells)
    cells["concern"] = rules.axes["concern"].cell(concern.derived["concern"])
    return DecidingRules(concern=concern, optimizer=optimizer_table.winner(cells))


def list_other_policies(rules: CompiledRules, situation: Situation, decision: Decision) -> Iterator[PolicyAnswer]:
    """Yield the optimizers by other policies that differ from that of the rules; none if one is requested.

    An optimizer that the rules reject for the inputs is left out.
    """
    if situation.optimizer is not None:
        return
    axis = rules.axes["policy"]
    for policy in axis.choices or ():
        cells = {**decision.cells, "policy": axis.cell(policy)}
        rule = decide_at(rules, tuple([cells[name] for name in rules.deciding_facts])).optimizer
        name = rule.choice.chosen
        is_other = policy != situation.policy and name != decision.rules.optimizer.choice.chosen
        if is_other and not is_rejected(rules, situation, name):
            yield PolicyAnswer(policy=policy, optimizer=name, because=rule.because, cite=rule.cite)


def choose_optimizer(rules: CompiledRules, situation: Situation) -> str:
    """Return the id of the optimizer that the rules choose; a requested optimizer is ignored."""
    cells = locate(rules, situation)
    return str(decide_at(rules, tuple([cells[name] for name in rules.deciding_facts])).optimizer.choice.chosen)


def locate_card(
    rules: CompiledRules, optimizer: Optimizer, implementation: Implementation, situation: Situation
) -> dict[str, int]:
    """Return the cells of the facts that follow from an optimizer's card."""
    facts = {
        **read_card_facts(optimizer, implementation, rules.axes),
        "asked_for": situation.optimizer is not None,
        "suited": situation.model in optimizer.model_types,
    }
    return {name: rules.axes[name].cell(value) for name, value in facts.items()}


def read_card_facts(
    optimizer: Optimizer, implementation: Implementation, axes: Mapping[str, Axis]
) -> dict[str, FactValue]:
    """Return the facts that follow from a card, for the tables after the choice of the optimizer.

    Args:
        optimizer: The card.
        implementation: The implementation.
        axes: Axes by fact; packages that no rule distinguishes become `other`.
    """
    betas = optimizer.hyperparameter("betas")
    is_named_package = implementation.package in (axes["package"].choices or ())
    return {
        "optimizer": optimizer.id, "lr_scale": optimizer.lr_scale, "decay": optimizer.decay, "family": optimizer.family,
        "package": implementation.package if is_named_package else "other", "clips_update": optimizer.clips_update,
        "deviates": implementation.deviates is not None, "steps_sparse": optimizer.sparse_gradients,
        "over_zero1": _describe_sharding(implementation, "zero1"),
        "over_fsdp": _describe_sharding(implementation, "fsdp"),
        "betas_advised": betas is not None and betas.advised and optimizer.lr_scale != "custom",
    }  # fmt: skip


def _describe_sharding(implementation: Implementation, sharding: str) -> str:
    """Return whether an implementation agrees or breaks with a sharding, or is unmeasured."""
    outcome = implementation.sharding.get(sharding)
    return "unmeasured" if outcome is None else AGREES if outcome == AGREES else "breaks"


def is_rejected(rules: CompiledRules, situation: Situation, optimizer: str) -> bool:
    """Return whether the rules reject an optimizer for the specified inputs."""
    return rules.defaults.find_contradiction({**situation.stated_inputs, "optimizer": optimizer}) is not None


def trace_rule(rule: Rule) -> TraceEntry:
    """Return the trace entry of a rule."""
    return TraceEntry(table=rule.table, rule=rule.id, because=rule.because, cite=rule.cite, layer=rule.layer)


def trace_decision(decision: Decision) -> tuple[TraceEntry, TraceEntry]:
    """Return the trace entries of the concern and of the optimizer."""
    rule = decision.rules.optimizer
    choice = trace_rule(rule)
    if decision.is_overruled:
        because = f"Specified with --optimizer; otherwise optadvise recommends {rule.choice.chosen}: {rule.because}"
        choice = TraceEntry(table=rule.table, rule=rule.id, because=because, cite=rule.cite, layer=rule.layer)
    return trace_rule(decision.rules.concern), choice


def find_guide_buffers(rules: CompiledRules, optimizer: str) -> float | None:
    """Return the guide's number of buffers per parameter of an optimizer; None if the guide has none."""
    cells = {"optimizer": rules.axes["optimizer"].cell(optimizer)}
    buffers = rules.tables["memory_notation"].winner(cells).notation["buffers"]
    return float(buffers) if isinstance(buffers, (int, float)) else None
