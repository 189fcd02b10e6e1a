"""Files are written whole or not at all, and output files are checked before the work begins."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

_PROBE_BYTES = 1 << 20  # a result with its samples is smaller


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Args:
        path: The file; its folder exists. A link is replaced.
        content: Text, which is encoded as UTF-8, or bytes.

    Raises:
        OSError: The file cannot be written; the old content is still there.
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
    """Write a file that the user named; links are followed.

    Args:
        content: Text, which is encoded as UTF-8, or bytes.

    Raises:
        InputError: The disk filled up since `check_writable`, or the folder was removed.
    """
    path = Path(os.path.realpath(path))
    try:
        replace_file(path, content)
    except OSError as error:
        raise _not_writable("", path, f"cannot be written ({error.strerror}); choose another path") from error


def check_writable(path: Path, flag: str) -> None:
    """Check that a file can be written, before an hour of measuring.

    Raises:
        InputError: The folder is missing, read-only or full, or the path is a folder, a device or a pipe.
    """
    if str(path).startswith(("/dev/std", "/dev/fd/")):
        raise _not_writable(flag, path, "is not a file; choose another path")
    try:
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise _not_writable(flag, path, "is a symbolic link to itself; choose another path")
        if path.is_dir():
            raise _not_writable(flag, path, "is a folder; add a file name")
        if path.exists() and not path.is_file():  # it would be replaced, /dev/null too
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
    """Write and remove a file beside one that will be written, as large as a result may be."""
    temporary = _temporary_file(path)
    try:
        with temporary.open("wb") as probe:
            probe.write(b"\0" * _PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())  # some file systems report a full disk only now
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_file(path: Path) -> Path:
    """Return a path beside a file that nothing else uses; hidden, so that no pattern for results matches it."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")
