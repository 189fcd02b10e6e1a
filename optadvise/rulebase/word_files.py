"""Reading of `rules/words.yaml`: names that people type for networks.

The file has its own cache entry, because most command lines name no network, or one of `rules/networks/`.
"""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError
from optadvise.core.text import normalize_spelling
from optadvise.core.yaml_reader import parse
from optadvise.core.yaml_records import decode_text, read_record
from optadvise.rulebase import conditions
from optadvise.rulebase.records import Fact, WordFile, WordGroup, Words
from optadvise.rulebase.rule_paths import Contents

assert conditions  # registers the reader of facts


def read_words(contents: Contents, facts: Mapping[str, Fact]) -> Words:
    """Return the words of all layers; a later layer replaces words with the same spelling.

    Raises:
        RuleFileError: A file is invalid.
    """
    groups: list[WordGroup] = []
    numbers: dict[str, int] = {}
    layers: dict[str, int] = {}
    params: dict[str, int] = {}
    for layer, file, content in contents:
        node, context = parse(decode_text(content, str(file)), str(file))
        context.facts = facts
        read = read_record(WordFile, node, context)
        params |= {normalize_spelling(name): count for sizes in read.sizes for name, count in sizes.params.items()}
        for group in read.words:
            _check_facts(group, facts)
            for spelling in _list_spellings(group):
                if layers.get(spelling) == layer:
                    message = f"the word {spelling!r} appears twice; remove one"
                    raise RuleFileError(message, group.at, code=ErrorCode.DUPLICATE_ENTRY)
                numbers[spelling], layers[spelling] = len(groups), layer
            groups.append(group)
    return Words(groups=tuple(groups), numbers=numbers, params=params)


def _check_facts(group: WordGroup, facts: Mapping[str, Fact]) -> None:
    """Check that a group states the kind of model, and only facts that an option states."""
    stated = {**group.usual, **group.facts}
    if stated.get("model") is None:
        message = "`facts` or `usual` must state the kind of model, as in {model: transformer}"
        raise RuleFileError(message, group.at, code=ErrorCode.MISSING_KEY)
    for name, value in stated.items():
        if facts[name].flag is None or facts[name].type != "choice" or value is None:
            message = f"a word cannot state {name!r}; accepted: facts with an option and a list of values"
            raise RuleFileError(message, group.at, code=ErrorCode.INVALID_ENTRY)


def _list_spellings(group: WordGroup) -> list[str]:
    spellings = [normalize_spelling(word) for word in group.words]
    if "" in spellings:
        raise RuleFileError("a word must have a letter or a digit", group.at, code=ErrorCode.INVALID_ENTRY)
    return spellings
