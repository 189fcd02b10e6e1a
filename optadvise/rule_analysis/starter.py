"""A folder of rules to begin with: commented files that pass every check."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from optadvise.core.errors import InputError
from optadvise.core.files import replace_file
from optadvise.rule_analysis.json_schema import FOLDER, editor_line, schemas
from optadvise.rulebase.catalog import Catalog

_POLICY = """\
# What this team rules out or changes. Each entry gives its reason, which answers repeat.
policy:
  disable:
    # An optimizer that is never named; where a row would choose it, its first other alternative is taken.
    - optimizer: adamw4bit
      because: we do not compile our training loops
    # A rule by its id (optadvise show WRN111 prints one):
    # - {rule: WRN111, because: nobody here would install apex}
  amend:
    # Other conditions for a row; those that are not named stay. `tests` show that it does what is meant.
    - rule: CON080
      when: {batch_size: ">= 6144"}
      because: on our cluster one rate for all layers breaks sooner
      tests:
        - {given: {batch_size: 6144, model: transformer}, expect: {concern: large-batch}}
"""
_ASSUME = """\
# What is taken where nobody says otherwise; these come before the program's own assumptions.
assume:
  - {fact: vram_bytes, value: 40GB, because: all our GPUs have 40 GB}
"""
_WARN = """\
# Rows of a table: one with a new id is added, one with a known id replaces that row. In an ordered table a new row says
# `before: ID`. A source of your own goes into sources.yaml.
table: warn
rules:
  - id: TEAM010
    name: long-runs-are-shared
    when: {gpus: ">= 8"}
    then: {level: info, text: "Runs on 8 GPUs and more are booked with the cluster team."}
    cite: [team]
    tests:
      - {given: {gpus: 8}, expect: {fires: true}}
      - {given: {gpus: 4}, expect: {fires: false}}
"""
_SOURCES = """\
# What `cite:` refers to.
sources:
  team: {title: How we train, url: "https://example.com/how-we-train"}
"""
FILES = {"policy.yaml": _POLICY, "assume.yaml": _ASSUME, "warn.yaml": _WARN, "sources.yaml": _SOURCES}
_KINDS = {"policy.yaml": "policy", "assume.yaml": "assume", "warn.yaml": "table", "sources.yaml": "sources"}


def write_starter(folder: Path, catalog: Catalog) -> list[Path]:
    """Write the starter into a folder that is not there yet, or is empty.

    Args:
        folder: Where.
        catalog: The rules that it goes over, whose names the schemas offer.

    Returns:
        The rule files.

    Raises:
        InputError: The folder holds something already, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{str(folder)!r}: is there already; name a new folder")
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for name, schema in schemas(catalog).items():
            if name in _KINDS.values():
                text = json.dumps(schema, indent=1, ensure_ascii=False)
                replace_file(folder / FOLDER / f"{name}.json", text + "\n")
        for name, text in FILES.items():
            line = editor_line(PurePosixPath(name), _KINDS[name])
            replace_file(folder / name, f"{line}\n{text}")
    except OSError as error:
        raise InputError(f"{str(folder)!r}: cannot be written ({error.strerror}); name another folder") from error
    return [folder / name for name in FILES]
