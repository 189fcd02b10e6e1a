"""Result files of `bench`, including those saved under a name."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from optadvise.benchmark.records import SCHEMA_VERSION, BenchmarkResult
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.paths import data_folder


def saved_result_path(name: str) -> Path:
    """Return the file of the result saved under a name.

    Raises:
        InputError: The name is invalid.
    """
    if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith("."):
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
    path = saved_result_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"folder {str(path.parent)!r} cannot be created ({error.strerror}); set OPTADVISE_DATA_DIR"
        raise InputError(
            f"--save {name!r}: {problem}", code=ErrorCode.FILE_NOT_WRITABLE, option="--save", value=path.parent
        ) from error
    return path


def read_result(name: str) -> BenchmarkResult:
    """Read a result from a file, or one saved under a name.

    Raises:
        InputError: The file does not exist or cannot be read.
        RuleFileError: The file is not a result of `optadvise bench`.
    """
    path = Path(name)
    if not path.is_file():
        path = saved_result_path(name) if re.fullmatch(r"[\w.-]{1,100}", name) else path
    try:
        content = path.read_bytes()
    except OSError as error:
        code = ErrorCode.FILE_NOT_FOUND if isinstance(error, FileNotFoundError) else ErrorCode.FILE_UNREADABLE
        message = f"{name!r}: cannot be read ({error.strerror}); use a result file or a name given to bench --save"
        raise InputError(message, code=code, value=name) from error
    return decode_result(content, str(path))


def decode_result(content: bytes, where: str) -> BenchmarkResult:
    """Decode the JSON of a result.

    Raises:
        RuleFileError: The content is not valid JSON or not a complete result.
    """
    try:
        return msgspec.json.decode(content, type=BenchmarkResult)
    except msgspec.ValidationError as error:
        raise _explain_invalid(content, error, where) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"not valid JSON ({error}); create the file with optadvise bench --json FILE"
        raise RuleFileError(message, where, code=ErrorCode.INVALID_SYNTAX) from error


class _Header(msgspec.Struct):
    """Fields that identify a result."""

    kind: object = None
    schema_version: object = None
    arms: object = None


def _explain_invalid(content: bytes, error: msgspec.ValidationError, where: str) -> RuleFileError:
    """Return the error for a file that is valid JSON but not a complete result."""
    try:
        header = msgspec.json.decode(content, type=_Header)
    except msgspec.ValidationError:  # not an object
        header = _Header()
    except msgspec.DecodeError as problem:  # in a part that the first reading did not reach
        message = f"not valid JSON ({problem}); create the file with optadvise bench --json FILE"
        return RuleFileError(message, where, code=ErrorCode.INVALID_SYNTAX)
    if header.kind != "bench" or not isinstance(header.arms, list):
        message = "not a result of optadvise bench; create the file with optadvise bench --json FILE"
        return RuleFileError(message, where, code=ErrorCode.WRONG_FILE_TYPE)
    if header.schema_version != SCHEMA_VERSION:
        message = f"schema_version {header.schema_version!r} is not supported; must be {SCHEMA_VERSION}"
        return RuleFileError(message, where, code=ErrorCode.INVALID_ENTRY)
    message = f"not a complete result of optadvise bench ({error}); run the benchmark again"
    return RuleFileError(message, where, code=ErrorCode.INVALID_ENTRY)
