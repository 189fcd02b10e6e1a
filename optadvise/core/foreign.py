"""Reading of files that others wrote: limits of size and depth, harmless texts, finite numbers, typed decoding."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections import Counter
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import OptadviseWarning
from optadvise.core.text import MAX_TEXT, clean_text

_RecordT = TypeVar("_RecordT")
MAX_BYTES = 64 * 2**20  # a result contains every sample: some MiB for a long benchmark
MAX_NUMBER = 1e100  # products and quotients of such numbers are still finite
_MAX_DEPTH = 64  # nested lists and objects; results have seven
_EXCERPT = 40  # characters


class ForeignFileError(Exception):
    """Foreign file that cannot be used; the text is what is wrong, without the file's name."""

    def __init__(self, problem: str, code: ErrorCode) -> None:
        """Store the problem.

        Args:
            problem: What is wrong, with the place in the file.
            code: Stable code.
        """
        super().__init__(problem)
        self.code = code


def read_bounded(path: Path, max_bytes: int = MAX_BYTES, *, allow_pipe: bool = True) -> bytes:
    """Return the content of a file.

    Args:
        path: A regular file, or a pipe such as the `/dev/fd/63` of `<(command)`; a pipe without a writer is empty.
        max_bytes: Maximum size.
        allow_pipe: Accept pipes: for files that the user names, not for files that a search finds.

    Raises:
        ForeignFileError: The file does not exist, cannot be read, is too large, or is a folder or a device.
    """
    try:
        mode = path.stat().st_mode  # before the file is opened, as opening a device can have effects
        if stat.S_ISDIR(mode):
            raise ForeignFileError("is a folder", ErrorCode.FILE_UNREADABLE)
        if not stat.S_ISREG(mode) and not (allow_pipe and stat.S_ISFIFO(mode)):
            raise ForeignFileError("is not a regular file", ErrorCode.FILE_UNREADABLE)
        # Without O_NONBLOCK, opening a pipe without a writer would wait.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_ISFIFO(mode):
                os.set_blocking(descriptor, True)
            return read_stream(file, max_bytes)
    except FileNotFoundError as error:
        raise ForeignFileError("does not exist", ErrorCode.FILE_NOT_FOUND) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else "invalid path"
        raise ForeignFileError(f"cannot be read ({reason})", ErrorCode.FILE_UNREADABLE) from error


def read_stream(stream: IO[bytes], max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of an open file, such as stdin.

    Raises:
        ForeignFileError: The stream cannot be read, or has more than `max_bytes`.
    """
    try:
        content = stream.read(max_bytes + 1)
    except OSError as error:
        raise ForeignFileError(f"cannot be read ({error.strerror})", ErrorCode.FILE_UNREADABLE) from error
    if content is None:  # no data in a device that does not wait for any, whatever the type of its file
        raise ForeignFileError("cannot be read (no data)", ErrorCode.FILE_UNREADABLE)
    if len(content) > max_bytes:
        raise ForeignFileError(f"is larger than {max_bytes // 2**20} MiB", ErrorCode.FILE_UNREADABLE)
    return content


def decode_json(content: bytes, max_number: float | None = MAX_NUMBER) -> object:
    """Return JSON as plain data with harmless texts.

    Args:
        content: JSON in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        max_number: Maximum absolute value of the numbers; None to accept any number, infinity and NaN.

    Raises:
        ForeignFileError: The content is not JSON, has duplicate keys, or exceeds a limit.
    """
    if not content.strip():
        raise ForeignFileError("is empty", ErrorCode.INVALID_SYNTAX)
    try:
        data = json.loads(content, object_pairs_hook=_reject_duplicates)
    except json.JSONDecodeError as error:
        problem = f"invalid JSON in line {error.lineno}, column {error.colno} ({error.msg})"
        raise ForeignFileError(problem, ErrorCode.INVALID_SYNTAX) from error
    except UnicodeDecodeError as error:
        raise ForeignFileError("the file is not UTF-8 text", ErrorCode.INVALID_SYNTAX) from error
    except (ValueError, RecursionError) as error:  # ValueError: an integer with thousands of digits
        problem = "is nested too deeply" if isinstance(error, RecursionError) else "has a number with too many digits"
        raise ForeignFileError(f"invalid JSON: it {problem}", ErrorCode.INVALID_SYNTAX) from error
    return _clean(data, "$", 0, _Limits(max_number, MAX_TEXT))


def decode_record(content: bytes, kind: type[_RecordT]) -> _RecordT:
    """Return JSON as a record; arguments and errors are those of `decode_json` and `convert_record`."""
    return convert_record(decode_json(content), kind)


def convert_record(data: object, kind: type[_RecordT]) -> _RecordT:
    """Return plain data as a record.

    Raises:
        ForeignFileError: A value is missing or does not have the type that the record declares.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).rpartition(" - at ")
        problem = clean_text(problem or place, 200)  # a problem of the whole document has no place
        at = f"{place.strip('`')}: " if problem != place else ""
        raise ForeignFileError(f"{at}{problem[:1].lower()}{problem[1:]}", ErrorCode.INVALID_ENTRY) from error


def set_aside(path: Path, problem: Exception) -> None:
    """Rename a damaged file, so that it is neither read again nor lost, and warn.

    Args:
        path: A file that optadvise wrote earlier.
        problem: Why it cannot be used.
    """
    renamed = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(renamed)
        outcome = f"renamed to {renamed.name}"
    except OSError:
        outcome = "ignored"
    warnings.warn(f"{str(path)!r} is damaged ({problem}); {outcome}", OptadviseWarning, stacklevel=2)


def clean_strings(data: Any, max_text: int = MAX_TEXT) -> Any:
    """Return plain data with harmless texts; numbers may be infinite or NaN.

    Args:
        data: Text, numbers, booleans and None, in lists and dicts of at most 64 levels.
        max_text: Characters after which a text is cut.
    """
    return _clean(data, "$", 0, _Limits(None, max_text))


class _Limits(msgspec.Struct, frozen=True):
    """Limits of foreign data."""

    number: float | None  # maximum absolute value; None to accept infinity and NaN
    text: int  # characters after which a text is cut


def _reject_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        duplicate, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ForeignFileError(f"key {clean_text(duplicate, _EXCERPT)!r} appears twice", ErrorCode.INVALID_SYNTAX)
    return values


def _clean(value: object, place: str, depth: int, limits: _Limits) -> object:
    """Return a value with harmless texts.

    Args:
        place: JSON path of the value.
        depth: Number of lists and objects around the value.
    """
    if isinstance(value, str):
        return clean_text(value, limits.text)
    if isinstance(value, (list, dict)):
        if depth >= _MAX_DEPTH:
            raise ForeignFileError(f"invalid JSON: it nests deeper than {_MAX_DEPTH} levels", ErrorCode.INVALID_SYNTAX)
        if isinstance(value, list):
            return [_clean(item, f"{place}[{i}]", depth + 1, limits) for i, item in enumerate(value)]
        keys = {key: clean_text(key) for key in value}
        return {
            keys[key]: _clean(item, f"{place}.{keys[key][:_EXCERPT]}", depth + 1, limits) for key, item in value.items()
        }
    if limits.number is not None and isinstance(value, (int, float)) and not abs(value) <= limits.number:  # also NaN
        problem = f"{clean_text(repr(value), _EXCERPT)} must be a finite number, at most {limits.number:g}"
        raise ForeignFileError(f"{clean_text(place, 200)}: {problem}", ErrorCode.INVALID_ENTRY)
    return value
