"""Cases beside the rules: at these facts, exactly these rows of a table decide. Read when rules are tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optadvise.core.errors import RuleFileError
from optadvise.core.yaml_reader import many, parse, record, text
from optadvise.rulebase.conditions import given
from optadvise.rulebase.loading import contents, yaml_files

FOLDER = "cases"

case = record({"given": given, "fire": many(text)}, located=True)
cases = record({"table": text, "cases": many(case, 1)}, located=True)


def read_cases(layers: Sequence[tuple[str, Path]], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every case of some layers, with its table and layer.

    Args:
        layers: Their names and folders.
        facts: The facts that are declared.

    Raises:
        RuleFileError: A file is invalid.
    """
    found = []
    folders = [folder for _, folder in layers]
    for index, file, content in contents(folders, lambda layer: yaml_files(layer / FOLDER)):
        try:
            node, context = parse(content.decode("utf-8"), str(file))
        except UnicodeDecodeError as error:
            raise RuleFileError("not UTF-8 text; save the file as UTF-8", str(file)) from error
        context.facts = facts
        read = cases(node, context)
        found += [{**entry, "table": read["table"], "layer": layers[index][0]} for entry in read["cases"]]
    return found
