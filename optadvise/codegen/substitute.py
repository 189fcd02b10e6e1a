"""Choice of a substitute for an optimizer that a framework does not support."""

from __future__ import annotations

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import Optimizer
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError
from optadvise.core.framework_cards import Framework
from optadvise.core.records import Situation


def choose_substitute(rules: CompiledRules, card: Optimizer, framework: Framework, run: Situation) -> Optimizer | None:
    """Return the closest optimizer that a framework supports; None if it supports this one.

    Args:
        run: The situation; its precision limits which frameworks support two optimizers.

    Raises:
        RuleFileError: The framework supports no optimizer.
    """
    if can_run(card, framework, run):
        return None
    catalog = rules.catalog
    if card.companion is not None:
        companion = catalog.optimizer(card.companion.optimizer)
        if can_run(companion, framework, run):
            return companion
    default = catalog.optimizer(rules.reference_optimizer)
    candidates = [default, *(catalog.optimizer(name) for name in catalog.optimizer_ids)]
    runnable = [other for other in candidates if can_run(other, framework, run)]
    if not runnable:
        where = f"frameworks/{framework.id}.yaml"
        raise RuleFileError(
            "supports no optimizer; set `any_class: true` or add `optimizers`", where, code=ErrorCode.INVALID_ENTRY
        )
    return max(runnable, key=lambda other: _measure_similarity(card, other))


def can_run(card: Optimizer, framework: Framework, run: Situation) -> bool:
    """Return whether the framework supports this optimizer, with its companion if it requires one."""
    if card.companion is not None and run.precision not in framework.two_optimizers:
        return False
    return framework.any_class or framework.client is not None or framework.by_name(card) is not None


def _measure_similarity(card: Optimizer, other: Optimizer) -> tuple[float, bool]:
    """Return a similarity by family and hyperparameters, and whether one optimizer is the other's parent."""
    names, other_names = ({number.name for number in one.hyperparameters} for one in (card, other))
    is_related = other.id in card.parents or card.id in other.parents
    return (card.family == other.family) + len(names & other_names) / len(names | other_names), is_related
