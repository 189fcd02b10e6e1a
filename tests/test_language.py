"""Text, docstrings and comments have the project's language: `tests/language_terms.yaml` lists what to avoid."""

from __future__ import annotations

import re

import pytest

from tests import language, metrics
from tests.language import Text, find_hits


def test_no_text_has_a_wording_to_avoid() -> None:
    hits = find_hits(language.collect_texts())
    assert not hits, "\n".join(map(str, hits))


def test_texts_of_every_kind_are_collected() -> None:
    files = {text.file for text in language.collect_texts()}
    for file in (
        "rules/facts.yaml",
        "optadvise/core/errors.py",
        "README.md",
        "docs/design.md",
        "optadvise bench --help",
    ):
        assert file in files
    assert any(file.endswith(".jinja") for file in files)


@pytest.mark.parametrize("text", ["Assumed, as nobody said", "--gpus 3 is no count", "its rate is high", "the\nledger"])
def test_a_wording_to_avoid_is_found(text: str) -> None:
    assert find_hits([Text("first", 1, "nothing wrong"), Text("second", 2, text)])[0].text.file == "second"


@pytest.mark.parametrize(
    "text", ["the learning rate", "is no longer used", "“nobody said” is a quote", "the decay rate"]
)
def test_a_plain_wording_is_accepted(text: str) -> None:
    assert find_hits([Text("file", 1, text)]) == []


def test_patterns_are_given_once() -> None:
    patterns = [pattern.pattern for pattern, _ in language.read_terms()]
    assert len(patterns) == len(set(patterns))
    assert not any(re.search(r"(?<!\\)[A-Z]", pattern) for pattern in patterns)  # texts are compared in lower case
    assert not any(re.search(pattern, "") for pattern in patterns)


def test_docstrings_of_functions_begin_with_a_verb_and_none_is_a_question() -> None:
    docstrings = [item for module in language.read_package() for item in metrics.collect_docstrings(module)]
    assert [f"{where} {line}" for where, node, line in docstrings if metrics.lacks_verb(node, line)] == []
