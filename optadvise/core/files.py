"""Atomic writes of output files, and checks that they can be written."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

_PROBE_BYTES = 1 << 20  # upper limit for the size of results
_MAX_LINKS = 40  # as in Linux


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically: readers see either the old or the new content.

    A replaced file keeps its permissions and, where the system allows it, its owner.

    Args:
        path: The file, in an existing folder. A symbolic link is replaced.
        content: Bytes, or text to encode as UTF-8.

    Raises:
        OSError: The file cannot be written; the old content is unchanged.
    """
    temporary = _temporary_file(path.parent)
    try:
        with _create_file(temporary, path) as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_output(path: Path, content: str | bytes, flag: str = "") -> None:
    """Write an output file; symbolic links are followed, but not those of other users in shared folders.

    Args:
        content: Bytes, or text to encode as UTF-8.
        flag: Option that names the file, for the error.

    Raises:
        InputError: The file cannot be written, for example because the disk is full.
    """
    try:
        replace_file(_find_target(path, flag), content)
    except OSError as error:
        raise _fail_to_write(path, flag, error) from error


def check_writable(path: Path, flag: str) -> None:
    """Check that an output file can be written, before a long computation.

    Raises:
        InputError: The folder does not exist, is read-only or full, or the path is a folder, a device or a pipe.
    """
    if str(path).startswith(("/dev/std", "/dev/fd/")):
        raise _not_writable(flag, path, "is not a file; choose another path")
    try:
        target = _find_target(path, flag)
        if not target.parent.is_dir():
            raise _not_writable(flag, target, f"folder {str(target.parent)!r} does not exist; create it first")
        _write_probe(target.parent)
    except OSError as error:
        raise _fail_to_write(path, flag, error) from error


def create_output_folder(folder: Path, flag: str) -> list[Path]:
    """Create a folder for output files, and check that files can be written in it; links are followed as for files.

    Returns:
        The folders that did not exist before, outer ones first.

    Raises:
        InputError: The folder cannot be created, is read-only or full, or another user made a link to it.
    """
    new: list[Path] = []
    try:
        with _remove_after_error(new):
            target = _follow_links(folder)
            for level in (*reversed(target.parents), target):
                if not level.exists():
                    level.mkdir(exist_ok=True)
                    new.append(level)
            _write_probe(target)
    except OSError as error:
        problem = f"files cannot be written in it ({error.strerror}); use another folder"
        raise _not_writable(flag, folder, problem) from error
    return new


def write_output_folder(folder: Path, contents: Mapping[str, str], flag: str = "") -> None:
    """Write files into a folder; an error leaves no new files and folders, and all others unchanged if possible.

    Args:
        contents: Text by path in the folder.
        flag: Option that names the folder, for the error.

    Raises:
        InputError: A file cannot be written, for example because the disk is full.
    """
    paths = {folder / name: content for name, content in contents.items()}
    new: list[Path] = []
    with _remove_after_error(new):
        for parent in dict.fromkeys(path.parent for path in paths):
            new += create_output_folder(parent, flag)
        for path in paths:
            check_writable(path, flag)
        for path, content in paths.items():
            target = _follow_links(path)
            is_new = not target.exists()
            write_output(target, content, flag)
            if is_new:
                new.append(target)


@contextlib.contextmanager
def _remove_after_error(new: Sequence[Path]) -> Iterator[None]:
    """Remove new files and empty folders, the last first, if the block raises an exception."""
    try:
        yield
    except BaseException:
        for path in reversed(new):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _not_writable(flag: str, path: Path, problem: str) -> InputError:
    message = f"{flag} {str(path)!r}: {problem}".lstrip()
    return InputError(message, code=ErrorCode.FILE_NOT_WRITABLE, option=flag, value=path)


def _fail_to_write(path: Path, flag: str, error: OSError) -> InputError:
    real = Path(os.path.realpath(path))
    return _not_writable(flag, real, f"cannot be written ({error.strerror}); choose another path")


def _find_target(path: Path, flag: str) -> Path:
    """Return the path of an output file without symbolic links.

    Raises:
        InputError: The path is a folder, a device or a pipe, which must not be replaced.
        OSError: The file cannot be accessed or is write-protected, or another user made it or a link to it.
    """
    target = _follow_links(path)
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise _not_writable(flag, target, "is a folder; add a file name")
    if not stat.S_ISREG(mode):
        raise _not_writable(flag, target, "is not a regular file; choose another path")
    _check_owner(target)
    if not os.access(target, os.W_OK):  # replacing would ignore the write protection
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target


def _follow_links(path: Path) -> Path:
    """Return an absolute path without symbolic links.

    Raises:
        OSError: Another user made a link in a shared folder, or there are too many links.
    """
    absolute = path.absolute()
    followed, remaining, links = Path(absolute.anchor), list(absolute.parts[1:]), 0
    while remaining:
        part = remaining.pop(0)
        step = followed.parent if part == ".." else followed / part
        if part == ".." or not step.is_symlink():
            followed = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        _check_owner(step)
        target = step.readlink()
        followed = Path(target.anchor) if target.is_absolute() else followed
        remaining[:0] = target.parts[1:] if target.is_absolute() else target.parts
    return followed


def _check_owner(path: Path) -> None:
    """Reject a file or link that another user made in a shared folder such as /tmp, as Linux can.

    Raises:
        PermissionError: Another user made it.
    """
    folder = path.parent.stat()
    is_shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if is_shared and path.lstat().st_uid not in (os.geteuid(), folder.st_uid):
        raise PermissionError(errno.EACCES, "another user made it in a shared folder")


def _create_file(temporary: Path, replaced: Path) -> BinaryIO:
    """Create a file with the permissions and the owner of the file that it will replace, if that exists."""
    try:
        old = replaced.lstat()
    except FileNotFoundError:
        return temporary.open("xb")
    # Only the user may open the file until it has the owner and the permissions of the old one.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    if stat.S_ISREG(old.st_mode) and hasattr(os, "fchown"):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    return os.fdopen(descriptor, "wb")


def _write_probe(folder: Path) -> None:
    """Write and remove a temporary file of the maximum size of a result."""
    temporary = _temporary_file(folder)
    try:
        with temporary.open("xb") as probe:
            probe.write(b"\0" * _PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())  # some file systems report a full disk only here
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_file(folder: Path) -> Path:
    """Return an unused path in a folder; hidden, so that patterns for result files do not match it."""
    return folder / f".optadvise-{os.urandom(8).hex()}"
