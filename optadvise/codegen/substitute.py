"""The nearest optimizer that a framework can run, where it cannot run the recommended one."""

from __future__ import annotations

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.cards import Optimizer
from optadvise.core.errors import RuleFileError
from optadvise.core.framework_cards import Framework
from optadvise.core.records import Situation


def choose_substitute(rules: CompiledRules, card: Optimizer, framework: Framework, run: Situation) -> Optimizer | None:
    """Return the nearest optimizer that a framework can run; None where it can run this one.

    Args:
        run: The situation, whose precision limits which frameworks step two optimizers.

    Raises:
        RuleFileError: The framework can run no optimizer.
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
        raise RuleFileError("can run no optimizer at all; say any_class, or name some", where)
    return max(runnable, key=lambda other: _measure_likeness(card, other))


def can_run(card: Optimizer, framework: Framework, run: Situation) -> bool:
    """Return whether the framework can run this optimizer, with its companion where it needs one."""
    if card.companion is not None and run.precision not in framework.two_optimizers:
        return False
    return framework.any_class or framework.client is not None or framework.by_name(card) is not None


def _measure_likeness(card: Optimizer, other: Optimizer) -> tuple[float, bool]:
    """Return how much of family and hyperparameters two optimizers share, then whether one is the other's parent."""
    names, other_names = ({number.name for number in one.hyperparameters} for one in (card, other))
    is_kin = other.id in card.parents or card.id in other.parents
    return (card.family == other.family) + len(names & other_names) / len(names | other_names), is_kin
