"""Reading of `rules/recipes/`: published training runs.

The files have their own cache entry, because only answers about recipes need them.
"""

from __future__ import annotations

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError, suggest_name
from optadvise.core.recipe_cards import Recipe, RecipeFile
from optadvise.core.yaml_reader import KnownIds
from optadvise.core.yaml_records import read_file
from optadvise.rulebase import conditions
from optadvise.rulebase.rule_base import RuleBase
from optadvise.rulebase.rule_paths import Contents

assert conditions  # registers the reader of counts

_NAMED = ("model", "architecture", "objective")  # facts whose values the recipes use


def read_recipes(contents: Contents, known_ids: KnownIds, base: RuleBase) -> tuple[Recipe, ...]:
    """Return the recipes of all layers; a later layer replaces recipes with the same id.

    Raises:
        RuleFileError: A file is invalid.
    """
    recipes: dict[str, Recipe] = {}
    layers: dict[str, int] = {}
    for layer, file, content in contents:
        read, _, _ = read_file(RecipeFile, content, str(file), known_ids)
        for recipe in read.recipes:
            _check_facts(recipe, base)
            if layers.get(recipe.id) == layer:
                message = f"recipe id {recipe.id!r} is already used at {recipes[recipe.id].at}"
                raise RuleFileError(message, recipe.at, code=ErrorCode.DUPLICATE_ENTRY)
            recipes[recipe.id], layers[recipe.id] = recipe, layer
    return tuple(recipes.values())


def _check_facts(recipe: Recipe, base: RuleBase) -> None:
    for name in _NAMED:
        value, accepted = getattr(recipe, name), base.facts[name].values or {}
        if value is not None and value not in accepted:
            message = f"`{name}: {value}` is not an accepted value; {suggest_name(value, accepted)}"
            raise RuleFileError(message, recipe.at, code=ErrorCode.UNKNOWN_CHOICE)
