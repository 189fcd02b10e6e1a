"""Support of rules: published runs for which a rule decides, and how many of them used its optimizer."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import msgspec

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import decide
from optadvise.core.advice_records import Support
from optadvise.core.caching import cached
from optadvise.core.cards import SHIPPED, UNKNOWN
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.recipe_cards import Recipe
from optadvise.core.records import FactValues
from optadvise.rulebase.cache import digest_contents
from optadvise.rulebase.catalog import Catalog, load_shipped
from optadvise.rulebase.rule_paths import RECIPES

_FACTS = (
    "model", "architecture", "objective", "task", "method", "lora_rank", "params", "batch_size", "seq_len",
    "image_size", "steps", "gpus", "precision",
)  # fmt: skip
_DECIDING = ("optadvise.advice.complete", "optadvise.advice.decide", "optadvise.advice.memory_pressure", __name__)
_NO_DECAY = 1e-6  # weight decay below this has no effect


def list_facts(recipe: Recipe) -> FactValues:
    """Return the facts of a published run that its source states, without its hardware.

    Whether a run fits does not change which runs agree with a rule: 8-bit state counts as the same update.
    """
    facts = {name: getattr(recipe, name) for name in _FACTS if getattr(recipe, name) is not None}
    return facts | ({"sparse_gradients": True} if recipe.sparse_gradients else {})


def is_equivalent(catalog: Catalog, one: str, other: str, decays: tuple[bool, bool]) -> bool:
    """Return whether two optimizers compute the same update, up to the precision of their state.

    Args:
        catalog: The cards.
        one: Id of an optimizer.
        other: Id of another.
        decays: Whether each is used with weight decay, which Adam and AdamW apply differently.
    """
    first, second = (catalog.optimizer(name) for name in (one, other))
    return first.update == second.update and (first.decay == second.decay or not any(decays))


def count_support(rules: CompiledRules) -> dict[str, Support]:
    """Return the support of each rule that chooses an optimizer, by id; rules without published runs are absent."""
    return {
        name: Support(*map(sum, zip(*by_kind.values(), strict=True))) for name, by_kind in _load_counts(rules).items()
    }


def find_support(rules: CompiledRules, rule: str, model: str | None) -> Support | None:
    """Return the support of a rule by the runs of one kind of model; None without such runs."""
    pair = _load_counts(rules).get(rule, {}).get(model or UNKNOWN)
    return None if pair is None else Support(*pair)


@cached(1)
def _load_counts(rules: CompiledRules) -> dict[str, dict[str, tuple[int, int]]]:
    """Return the runs and those that agree, by rule and kind of model, from the disk cache if it has them."""
    catalog = rules.catalog
    code = digest_contents(*(Path(str(import_module(name).__file__)) for name in _DECIDING))
    key = f"support of {catalog.fingerprint} by {catalog.later.folder(RECIPES)[1]} and {code}"
    counts = catalog.figures.get(key, lambda: [_count(rules)])
    return msgspec.convert(counts, list[dict[str, dict[str, tuple[int, int]]]])[0]


def _count(rules: CompiledRules) -> dict[str, dict[str, list[int]]]:
    counts: dict[str, dict[str, list[int]]] = {}
    # A team's defaults, such as the memory of its GPUs, do not apply to published runs.
    has_layers = rules.catalog.layers[0] == SHIPPED and rules.catalog.layers[1:]
    defaults = CompiledRules(load_shipped()) if has_layers else rules
    for recipe in rules.catalog.recipes:
        try:
            decision = decide(rules, complete_situation(defaults, list_facts(recipe)))
        except (InputError, RuleFileError):  # rules with gaps or conflicts are reported by the proofs
            continue
        rule = decision.rules.optimizer
        names = (recipe.optimizer, *recipe.also_right)
        decays = (recipe.weight_decay or 0) > _NO_DECAY, False
        is_same = any(is_equivalent(rules.catalog, name, rule.choice.chosen, decays) for name in names)
        pair = counts.setdefault(rule.id, {}).setdefault(recipe.model, [0, 0])
        pair[0] += 1
        pair[1] += is_same
    return counts
