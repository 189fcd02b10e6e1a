"""Results of `bench` saved under a name, and result files in general."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from optadvise.benchmark.records import SCHEMA_VERSION, BenchmarkResult
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


def read_result(name: str) -> BenchmarkResult:
    """Read a result from a file, or the one saved under a name.

    Raises:
        InputError: There is no such file, or it cannot be read.
        RuleFileError: The file is not a result of `optadvise bench`.
    """
    path = Path(name)
    if not path.is_file():
        path = saved_result_path(name) if re.fullmatch(r"[\w.-]{1,100}", name) else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{name!r}: no such result ({error.strerror}); name a file, or a --save name") from error
    return decode_result(content, str(path))


def decode_result(content: bytes, where: str) -> BenchmarkResult:
    """Decode the JSON of a result, which may have been written by hand, or cut off.

    Raises:
        RuleFileError: It is not JSON, or not a whole result.
    """
    try:
        return msgspec.json.decode(content, type=BenchmarkResult)
    except msgspec.ValidationError as error:
        raise RuleFileError(_explain(content, error), where) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RuleFileError(f"no JSON ({error}); make it with optadvise bench --json FILE", where) from error


class _Header(msgspec.Struct):
    """Fields that tell a result from other files."""

    kind: object = None
    schema_version: object = None
    arms: object = None


def _explain(content: bytes, error: msgspec.ValidationError) -> str:
    """Return what is wrong with a file that is JSON but no whole result."""
    try:
        header = msgspec.json.decode(content, type=_Header)
    except msgspec.ValidationError:  # no object
        header = _Header()
    if header.kind != "bench" or not isinstance(header.arms, list):
        return "no result of optadvise bench; make it with optadvise bench --json FILE"
    if header.schema_version != SCHEMA_VERSION:
        return f"schema version {header.schema_version!r} is not known here"
    return f"no whole result of optadvise bench ({error}); measure again"
