"""Results of `bench` saved under a name, and result files in general."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.paths import data_folder


def saved_result_path(name: str) -> Path:
    """Return the file that holds the result saved under a name.

    Raises:
        InputError: The name cannot be the name of a file.
    """
    if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith("."):
        raise InputError(f"--save {name!r}: a name has letters, digits, '-', '_' and '.', as in main-2024")
    return data_folder() / "results" / f"{name}.json"


def prepare_saved_result(name: str) -> Path:
    """Return the file for a result that will be saved under a name; creates its folder.

    Raises:
        InputError: The name cannot be the name of a file, or the folder cannot be created.
    """
    path = saved_result_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{str(path.parent)!r} cannot be made ({error.strerror}); set OPTADVISE_DATA_DIR"
        raise InputError(f"--save {name!r}: {message}") from error
    return path


def read_result(name: str) -> dict[str, Any]:
    """Read a result from a file, or the one saved under a name.

    Raises:
        InputError: There is no such file, or it cannot be read.
        RuleFileError: The file is not a result of `optadvise bench`.
    """
    path = Path(name)
    if not path.is_file():
        path = saved_result_path(name) if re.fullmatch(r"[\w.-]{1,100}", name) else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name!r}: no such result ({error.strerror}); name a file, or a --save name") from error
    except ValueError as error:
        raise RuleFileError(f"no JSON ({error}); make it with optadvise bench --json FILE", str(path)) from error
    if not isinstance(data, dict) or data.get("kind") != "bench" or not isinstance(data.get("arms"), list):
        raise RuleFileError("no result of optadvise bench; make it with optadvise bench --json FILE", str(path))
    if data.get("schema_version") != 1:
        raise RuleFileError(f"schema version {data.get('schema_version')!r} is not known here", str(path))
    return data
