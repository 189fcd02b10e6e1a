"""Meaning of a name after `--model`: a kind of model, a word of `words.yaml`, or a network of `networks/`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from optadvise.core.cards import FactValue
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_similar
from optadvise.core.text import normalize_spelling
from optadvise.core.units import parse_count
from optadvise.memory.networks import load_networks, remove_owner
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import WordGroup

_SEPARATORS = "-_ .:"
_ENDING = re.compile(  # version, size or variant of a network
    r"v?\d+(\.\d+)*[a-z]{0,2}\d?|[a-z]\d+(\.\d+)*[a-z]?|\d+x\d+(\.\d+)?b|[a-z]|xxs|xs|xl|xxl|nano|pico|micro|tiny|mini"
    r"|xsmall|small|base|medium|large|xlarge|xxlarge|huge|giant|big|lite|turbo|plus|pro|instruct|chat|it|sft|dpo|hf|uncased"
    r"|cased|vision|vl|patch\d+|window\d+|\d+(e\d+)?t|moe"
)
# Parameters, as in llama-3-8b, stablelm-2-1_6b and bloom-7b1.
_SIZE = re.compile(r"[-_ ](?P<whole>\d+)(?:[._](?P<part>\d+))?(?P<unit>[bm])(?P<tenths>\d?)(?![^-_ ])")


class ModelName(Struct, frozen=True):
    """Facts that a name states."""

    facts: Mapping[str, FactValue] = {}
    usual: Mapping[str, FactValue] = {}  # facts that yield to other options
    arch: str | None = None  # named network
    params: int | None = None  # size at the end of the name


def find_model_name(catalog: Catalog, text: str, flag: str = "--model") -> ModelName:
    """Return what a name after `--model` states.

    Raises:
        InputError: The name is unknown.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> find_model_name(load(), "falcon-7b").facts
        {'model': 'transformer', 'architecture': 'decoder'}
    """
    name = remove_owner(text.strip().lower())
    group = _find_group(catalog, name)
    if group is not None:
        return ModelName(facts=group.facts, usual=group.usual, params=_find_size(catalog, name))
    networks = load_networks(catalog)
    arch = networks.find_spelling(name)
    if arch is not None:
        family = networks.families[networks.shapes[arch].family]
        kind = {"model": family.model, "architecture": family.architecture}
        return ModelName(facts={fact: value for fact, value in kind.items() if value is not None}, arch=arch)
    versioned = find_word(catalog, name)
    if versioned is None:
        values = catalog.facts["model"].values or {}
        words = {word: word for group in catalog.words.groups for word in group.words}
        guess = suggest_similar(name, values, words)
        raise InputError(
            f"{flag} {text!r}: unknown name; {f'{guess} ' if guess else ''}use a kind of model ({', '.join(values)}) "
            "or a name such as llm, bert, clip or yolo",
            code=ErrorCode.UNKNOWN_CHOICE, option=flag, value=text,
        )  # fmt: skip
    return versioned


def find_word(catalog: Catalog, text: str) -> ModelName | None:
    """Return what a word states, with or without a version or size after it; None for an unknown word."""
    name = remove_owner(text.strip().lower())
    for head in _list_heads(name):
        group = _find_group(catalog, head)
        if group is not None:
            return ModelName(facts=group.facts, usual=group.usual, params=_find_size(catalog, name))
    return None


def _find_size(catalog: Catalog, name: str) -> int | None:
    """Return the parameters of a network by its name; None if the name has no size."""
    size = _SIZE.search(name)
    if size is None:
        listed = (catalog.words.params.get(normalize_spelling(head)) for head in _list_heads(name))
        return next((params for params in listed if params is not None), None)
    return parse_count(f"{size['whole']}.{size['part'] or size['tenths'] or 0}{size['unit']}", "--model")


def _find_group(catalog: Catalog, name: str) -> WordGroup | None:
    """Return the group of a word, or a group with only the kind of model."""
    if name.replace("_", "-") in (catalog.facts["model"].values or {}):
        return WordGroup(words=(name,), facts={"model": name})
    return catalog.words.find(normalize_spelling(name))


def _list_heads(name: str) -> Iterator[str]:
    """Yield a name without its last versions, sizes and variants, the longest first."""
    yield name
    for end in range(len(name) - 1, 0, -1):
        before, after = name[end - 1], name[end:]
        is_boundary = after[0] in _SEPARATORS or (before.isalpha() and re.match(r"v?\d", after) is not None)
        endings = re.split(r"[-_ :]+", after.strip(_SEPARATORS))
        if is_boundary and all(_ENDING.fullmatch(ending) for ending in endings):
            yield name[:end]
