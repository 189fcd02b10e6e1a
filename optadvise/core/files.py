"""Atomic writes of files, and checks that output files are writable."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

_PROBE_BYTES = 1 << 20  # upper limit for the size of results


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically: readers see either the old or the new content.

    Args:
        path: The file, in an existing folder. A symbolic link is replaced.
        content: Bytes, or text to encode as UTF-8.

    Raises:
        OSError: The file cannot be written; the old content is unchanged.
    """
    temporary = _temporary_file(path)
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_output(path: Path, content: str | bytes) -> None:
    """Write an output file; symbolic links are followed.

    Args:
        content: Bytes, or text to encode as UTF-8.

    Raises:
        InputError: The file cannot be written, for example because the disk is full.
    """
    path = Path(os.path.realpath(path))
    try:
        replace_file(path, content)
    except OSError as error:
        raise _not_writable("", path, f"cannot be written ({error.strerror}); choose another path") from error


def check_writable(path: Path, flag: str) -> None:
    """Check that an output file can be written, before a long computation.

    Raises:
        InputError: The folder does not exist, is read-only or full, or the path is a folder, a device or a pipe.
    """
    if str(path).startswith(("/dev/std", "/dev/fd/")):
        raise _not_writable(flag, path, "is not a file; choose another path")
    try:
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise _not_writable(flag, path, "is a symbolic link to itself; choose another path")
        if path.is_dir():
            raise _not_writable(flag, path, "is a folder; add a file name")
        if path.exists() and not path.is_file():  # `replace_file` would replace a device such as /dev/null
            raise _not_writable(flag, path, "is not a regular file; choose another path")
        if not path.parent.is_dir():
            raise _not_writable(flag, path, f"folder {str(path.parent)!r} does not exist; create it first")
        _write_probe(path)
    except OSError as error:
        raise _not_writable(flag, path, f"cannot be written ({error.strerror}); choose another path") from error


def _not_writable(flag: str, path: Path, problem: str) -> InputError:
    message = f"{flag} {str(path)!r}: {problem}".lstrip()
    return InputError(message, code=ErrorCode.FILE_NOT_WRITABLE, option=flag, value=path)


def _write_probe(path: Path) -> None:
    """Write and remove a temporary file in the same folder, of the maximum size of a result."""
    temporary = _temporary_file(path)
    try:
        with temporary.open("wb") as probe:
            probe.write(b"\0" * _PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())  # some file systems report a full disk only here
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_file(path: Path) -> Path:
    """Return an unused path in the same folder; hidden, so that patterns for result files do not match it."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")
