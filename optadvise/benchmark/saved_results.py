"""Result files of `bench`, including those saved under a name."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from optadvise.benchmark.records import SCHEMA_VERSION, BenchmarkResult
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.foreign import ForeignFileError, convert_record, decode_json, read_bounded
from optadvise.core.paths import data_folder
from optadvise.core.private_files import create_private_folder

_NAME = r"[\w-][\w.-]{0,99}"
_CREATE = "create the file with optadvise bench --json FILE"


def saved_result_path(name: str) -> Path:
    """Return the file of the result saved under a name.

    Raises:
        InputError: The name is invalid.
        FileNotFoundError: The user has no home folder.
    """
    if not re.fullmatch(_NAME, name):
        message = (
            "must be 1 to 100 letters, digits, '-', '_' or '.', and not start with '.'; use a name such as main-2024"
        )
        raise InputError(f"--save {name!r}: {message}", code=ErrorCode.INVALID_VALUE, option="--save", value=name)
    return data_folder() / "results" / f"{name}.json"


def prepare_saved_result(name: str) -> Path:
    """Create the folder for a result to be saved under a name, and return its file.

    Raises:
        InputError: The name is invalid, or the folder cannot be created.
    """
    try:
        path = saved_result_path(name)
        create_private_folder(path.parent)
    except OSError as error:
        problem = f"the folder of saved results cannot be created ({error.strerror}); set OPTADVISE_DATA_DIR"
        raise InputError(
            f"--save {name!r}: {problem}", code=ErrorCode.FILE_NOT_WRITABLE, option="--save", value=error.filename
        ) from error
    return path


def read_result(name: str) -> BenchmarkResult:
    """Read a result from a file or a pipe, or one saved under a name.

    Raises:
        InputError: The file does not exist or cannot be read.
        RuleFileError: The file is not a result of `optadvise bench`.
    """
    path = Path(name)
    is_file = os.path.exists(name) and not os.path.isdir(name)  # noqa: PTH110, PTH112, those of Path raise errors
    if not is_file and re.fullmatch(_NAME, name):
        with contextlib.suppress(FileNotFoundError):  # without a home folder, nothing was saved
            saved = saved_result_path(name)
            path = saved if saved.exists() else path
    try:
        content = read_bounded(path)
    except ForeignFileError as error:
        message = f"{name!r}: {error}; use a result file or a name given to bench --save"
        raise InputError(message, code=error.code, value=name) from error
    return decode_result(content, str(path))


def decode_result(content: bytes, where: str) -> BenchmarkResult:
    """Decode the JSON of a result.

    Args:
        where: File in error messages.

    Raises:
        RuleFileError: The content is not valid JSON or not a complete result.
    """
    try:
        data = decode_json(content)
    except ForeignFileError as error:
        raise RuleFileError(f"{error}; {_CREATE}", where, code=error.code) from error
    header = data if isinstance(data, dict) else {}
    if header.get("kind") != "bench" or not isinstance(header.get("arms"), list):
        message = f"not a result of optadvise bench; {_CREATE}"
        raise RuleFileError(message, where, code=ErrorCode.WRONG_FILE_TYPE)
    version = header.get("schema_version")
    if version != SCHEMA_VERSION:
        message = f"$.schema_version: must be {SCHEMA_VERSION}, found {version!r:.40}; {_CREATE}"
        raise RuleFileError(message, where, code=ErrorCode.INVALID_ENTRY)
    try:
        return convert_record(data, BenchmarkResult)
    except ForeignFileError as error:
        message = f"{error}; run the benchmark again"
        raise RuleFileError(message, where, code=error.code) from error
