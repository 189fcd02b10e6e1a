"""Reading of test cases in `cases/`: facts, and the ids of all rules of a table that must apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from optadvise.core.cards import SHIPPED
from optadvise.core.yaml_reader import parse
from optadvise.core.yaml_records import decode_text, read_record
from optadvise.core.yaml_types import Internal
from optadvise.rulebase import conditions
from optadvise.rulebase.records import Fact, GivenFacts, RuleRecord
from optadvise.rulebase.rule_paths import list_yaml_files, read_contents

assert conditions  # registers the reader of facts

FOLDER = "cases"


class Case(RuleRecord, frozen=True, kw_only=True):
    """Test case: facts, and the ids of all rules of the table that must apply."""

    given: GivenFacts
    fire: tuple[str, ...]
    table: Internal = ""
    at: Internal = ""
    layer: Internal = SHIPPED


class CaseFile(RuleRecord, frozen=True, kw_only=True):
    """A file in `cases/`."""

    table: str
    cases: Annotated[tuple[Case, ...], Meta(min_length=1)]


def read_cases(layers: Sequence[tuple[str, Path]], facts: Mapping[str, Fact]) -> list[Case]:
    """Return the cases of all layers.

    Raises:
        RuleFileError: A file is invalid.
    """
    cases = []
    folders = [folder for _, folder in layers]
    for index, file, content in read_contents(folders, lambda layer: list_yaml_files(layer / FOLDER)):
        node, context = parse(decode_text(content, str(file)), str(file))
        context.facts = facts
        read = read_record(CaseFile, node, context)
        cases += [replace(case, table=read.table, layer=layers[index][0]) for case in read.cases]
    return cases
