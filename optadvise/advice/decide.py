"""The decision about the optimizer: a situation's point on the grid of facts, and the two rules that decide there."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.memory_pressure import classify_pressure
from optadvise.core.caching import cached
from optadvise.core.cards import AGREES, FactValue, Implementation, Optimizer
from optadvise.core.records import Situation, TraceEntry
from optadvise.rulebase.table_records import Rule
from optadvise.rulebase.tables import Axis


class DecidingRules(Struct, frozen=True):
    """The rules that decide about the optimizer."""

    concern: Rule
    optimizer: Rule


class Decision(Struct, frozen=True):
    """The optimizer of a situation, the rules that decided, and the cells of the facts that are known then."""

    cells: Mapping[str, int]
    rules: DecidingRules
    optimizer: Optimizer  # the requested one, otherwise the one that the rules choose

    @property
    def is_overruled(self) -> bool:
        """Return whether another optimizer was requested than the rules choose."""
        return bool(self.optimizer.id != self.rules.optimizer.choice.chosen)


def decide(rules: CompiledRules, situation: Situation) -> Decision:
    """Return the optimizer of a complete situation and why.

    Raises:
        RuleFileError: The rules leave this situation open or contradict themselves.
    """
    cells = locate(rules, situation)
    choice = decide_at(rules, tuple([cells[name] for name in rules.deciding_facts]))
    cells["concern"] = rules.axes["concern"].cell(choice.concern.derived["concern"])
    optimizer = rules.catalog.optimizer(situation.optimizer or choice.optimizer.choice.chosen)
    cells.update(locate_card(rules, optimizer, optimizer.implementations[0], situation))
    return Decision(cells=cells, rules=choice, optimizer=optimizer)


def locate(rules: CompiledRules, situation: Situation) -> dict[str, int]:
    """Return the cells of a situation's facts, the derived fact `memory` included."""
    cells = {name: axis.cell(getattr(situation, name)) for name, axis in rules.input_axes}
    cells["memory"] = rules.axes["memory"].cell(classify_pressure(rules, situation))
    return cells


@cached(8192)
def decide_at(rules: CompiledRules, point: tuple[int, ...]) -> DecidingRules:
    """Return the rules that decide at a point.

    Args:
        rules: The compiled rules.
        point: The cells of `rules.deciding_facts`, in their order.
    """
    concern_table, optimizer_table = rules.deciding_tables
    cells = dict(zip(rules.deciding_facts, point, strict=True))
    concern = concern_table.winner(cells)
    cells["concern"] = rules.axes["concern"].cell(concern.derived["concern"])
    return DecidingRules(concern=concern, optimizer=optimizer_table.winner(cells))


def choose_optimizer(rules: CompiledRules, situation: Situation) -> str:
    """Return the id of the optimizer that the rules choose, whatever was requested."""
    cells = locate(rules, situation)
    return str(decide_at(rules, tuple([cells[name] for name in rules.deciding_facts])).optimizer.choice.chosen)


def locate_card(
    rules: CompiledRules, optimizer: Optimizer, implementation: Implementation, situation: Situation
) -> dict[str, int]:
    """Return the cells of the facts that an optimizer's card adds in a situation."""
    facts = {
        **read_card_facts(optimizer, implementation, rules.axes),
        "asked_for": situation.optimizer is not None,
        "suited": situation.model in optimizer.model_types,
    }
    return {name: rules.axes[name].cell(value) for name, value in facts.items()}


def read_card_facts(
    optimizer: Optimizer, implementation: Implementation, axes: Mapping[str, Axis]
) -> dict[str, FactValue]:
    """Return the facts that a card adds for the tables after the choice of an optimizer.

    Args:
        optimizer: The card.
        implementation: The implementation that is used.
        axes: Every fact's axis, which knows the packages that rules distinguish.
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
    """Return the fact of how an implementation behaves over several ranks."""
    outcome = implementation.sharding.get(sharding)
    return "unmeasured" if outcome is None else AGREES if outcome == AGREES else "breaks"


def is_sound_when_sharded(rules: CompiledRules, situation: Situation, optimizer: str) -> bool:
    """Return whether an optimizer's first implementation is not known to break where a situation is sharded."""
    sharding = rules.catalog.optimizer(optimizer).implementations[0].sharding
    return sharding.get(situation.sharding or "", AGREES) == AGREES


def trace_rule(rule: Rule) -> TraceEntry:
    """Return a rule that decided as an entry of the trace."""
    return TraceEntry(table=rule.table, rule=rule.id, because=rule.because, cite=rule.cite, layer=rule.layer)


def trace_decision(decision: Decision) -> tuple[TraceEntry, TraceEntry]:
    """Return the rules of the concern and of the optimizer as entries of the trace."""
    rule = decision.rules.optimizer
    choice = trace_rule(rule)
    if decision.is_overruled:
        because = f"asked for; the rules would take {rule.choice.chosen}: {rule.because}"
        choice = TraceEntry(table=rule.table, rule=rule.id, because=because, cite=rule.cite, layer=rule.layer)
    return trace_rule(decision.rules.concern), choice


def find_guide_buffers(rules: CompiledRules, optimizer: str) -> float | None:
    """Return the buffers per parameter that the guide counts for an optimizer; None where it counts none."""
    cells = {"optimizer": rules.axes["optimizer"].cell(optimizer)}
    buffers = rules.tables["memory_notation"].winner(cells).notation["buffers"]
    return float(buffers) if isinstance(buffers, (int, float)) else None
