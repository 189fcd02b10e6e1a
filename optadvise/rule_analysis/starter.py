"""Starter files of a rule layer, with comments; they pass all checks and tests."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.files import write_output_folder
from optadvise.rule_analysis.json_schema import FOLDER, editor_line, schemas
from optadvise.rulebase.catalog import Catalog

_FILES = Path(__file__).parent / "starter_rules"
_KINDS = {"policy.yaml": "policy", "assume.yaml": "assume", "warn.yaml": "table", "sources.yaml": "sources"}


def write_starter(folder: Path, catalog: Catalog) -> list[Path]:
    """Write the starter files into a new or empty folder.

    Args:
        catalog: Rules whose ids the editor schemas offer.

    Returns:
        The paths of the rule files.

    Raises:
        InputError: The folder is not empty or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            message = f"{str(folder)!r} already exists and is not an empty folder; choose a new folder"
            raise InputError(message, code=ErrorCode.FILE_NOT_WRITABLE, value=folder)
    except OSError as error:
        message = f"{str(folder)!r} cannot be written ({error.strerror}); choose another folder"
        raise InputError(message, code=ErrorCode.FILE_NOT_WRITABLE, value=folder) from error
    contents = {
        f"{FOLDER}/{name}.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for name, schema in schemas(catalog).items()
        if name in _KINDS.values()
    }
    for name, kind in _KINDS.items():
        text = (_FILES / name).read_text(encoding="utf-8")
        contents[name] = f"{editor_line(PurePosixPath(name), kind)}\n{text}"
    write_output_folder(folder, contents)
    return [folder / name for name in _KINDS]
