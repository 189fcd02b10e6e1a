"""Published runs that are most like a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import log2

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.advice_records import PublishedRun
from optadvise.core.recipe_cards import Recipe
from optadvise.core.records import Situation
from optadvise.core.units import show_count

_ADAPTERS = ("lora", "qlora")
_SIZES = {"params": ("parameters", 1.0), "batch_size": ("batch", 0.5)}  # fact -> name, weight of a doubling
_UNKNOWN_SIZE = 2.0  # distance in doublings of a size that the source does not state
_OTHER_OBJECTIVE = 4.0  # distance of a run with another objective, or with none of the facts' values
_OTHER_METHOD = 1.0  # distance of the other kind of adapter
_UNLIKE = 1.25  # smallest ratio of sizes that is a difference


def list_published(
    rules: CompiledRules, run: Situation, optimizer: str, largest: int | None = None, limit: int = 3
) -> tuple[PublishedRun, ...]:
    """Return the published runs of the same kind that are nearest to a run, the nearest first.

    Args:
        rules: The compiled rules.
        run: A complete situation.
        optimizer: Id of the advised optimizer, which decides between equally near runs.
        largest: Parameters of the largest model that fits, for a run whose size is unknown; None if unknown.
        limit: Maximum number of runs.
    """
    sized = replace(run, params=largest) if run.params is None and largest else run
    similar = [recipe for recipe in rules.catalog.recipes if is_same_kind(recipe, run)]
    update = rules.catalog.optimizer(optimizer).update
    objectives = Counter(recipe.objective for recipe in similar)
    usual = max(objectives, key=lambda objective: objectives[objective], default=None)

    def rank(recipe: Recipe) -> tuple[float, bool, int, str]:
        is_other = rules.catalog.optimizer(recipe.optimizer).update != update
        return _compute_distance(recipe, sized, run.objective or usual), is_other, -(recipe.year or 0), recipe.id

    nearest = sorted(similar, key=rank)
    return tuple(_describe(recipe, run) for recipe in nearest[:limit])


def is_same_kind(recipe: Recipe, run: Situation) -> bool:
    """Return whether a recipe trains the same kind of network for the same task, with the same kind of weights."""
    return (
        (recipe.model, recipe.task) == (run.model, run.task)
        and recipe.architecture in (None, run.architecture)
        and (run.objective is None or recipe.objective in (None, run.objective))
        and (recipe.method in _ADAPTERS) == (run.method in _ADAPTERS)
    )


def _compute_distance(recipe: Recipe, run: Situation, objective: str | None) -> float:
    """Return the distance in doublings of the number of parameters.

    Args:
        objective: Objective of the run, or the most common one of such runs if it is unknown.
    """
    distance = _OTHER_METHOD * (recipe.method != run.method)
    distance += _OTHER_OBJECTIVE * (recipe.objective != objective)
    for fact, (_, weight) in _SIZES.items():
        ours, theirs = getattr(run, fact), getattr(recipe, fact)
        if ours is not None:
            distance += weight * (_UNKNOWN_SIZE if theirs is None else abs(log2(theirs / ours)))
    return distance


def _describe(recipe: Recipe, run: Situation) -> PublishedRun:
    return PublishedRun(
        name=recipe.id, optimizer=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay,
        schedule=recipe.schedule, batch_size=recipe.batch_size, cite=recipe.url,
        differs="; ".join(_list_differences(recipe, run)), params=recipe.params, year=recipe.year,
        source=recipe.source,
    )  # fmt: skip


def _list_differences(recipe: Recipe, run: Situation) -> Iterator[str]:
    """Yield how a recipe's run differs: another method, and sizes where both are known."""
    if recipe.method != run.method:
        yield recipe.method
    for fact, (name, _) in _SIZES.items():
        ours, theirs = getattr(run, fact), getattr(recipe, fact)
        if ours is not None and theirs is not None and not 1 / _UNLIKE < theirs / ours < _UNLIKE:
            yield f"{name} {show_count(theirs) if theirs >= 1e6 else f'{theirs:,}'}"
