"""Files that only the user may change: the cache and the findings of this machine.

Another user who can change such a folder could change answers, or direct a write to another file with a link.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import warnings
from pathlib import Path

from optadvise.core.errors import OptadviseWarning
from optadvise.core.files import replace_file


def is_private(base: Path, folder: Path, variable: str) -> bool:
    """Return whether only the user can change a folder; print a warning if others can.

    Args:
        base: Folder of the cache or of user data.
        folder: `base` or a folder below it. Folders that do not exist are private.
        variable: Environment variable with which the user can choose another folder.
    """
    problem = _find_problem(base, folder)
    if problem is not None:
        _warn_once(f"{problem}, so it is not used; set {variable} to a folder that only you can change")
    return problem is None


@functools.cache  # the folder is checked for each of its files
def _warn_once(message: str) -> None:
    warnings.warn(message, OptadviseWarning, stacklevel=3)


def write_private_file(base: Path, file: Path, content: bytes) -> None:
    """Write a file atomically; create its folder, which only the user may access.

    Args:
        base: Folder of the cache or of user data, which contains the file.

    Raises:
        OSError: The file cannot be written, or other users can change the folder.
    """
    create_private_folder(file.parent)
    problem = _find_problem(base, file.parent)
    if problem is not None:
        raise PermissionError(errno.EACCES, problem)
    replace_file(file, content)


def create_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, which only the user may access.

    Raises:
        OSError: A folder cannot be created.
    """
    for level in (*reversed(folder.parents), folder):
        if level.exists() and not level.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(level))
        level.mkdir(mode=0o700, exist_ok=True)


def _find_problem(base: Path, folder: Path) -> str | None:
    """Return why other users can change a folder; None if they cannot, or if it does not exist."""
    levels = [base]
    for part in folder.relative_to(base).parts:
        levels.append(levels[-1] / part)
    return next((problem for level in levels if (problem := _find_problem_of(level)) is not None), None)


def _find_problem_of(folder: Path) -> str | None:
    if not hasattr(os, "geteuid"):  # Windows, where the folders of a user are private
        return None
    trusted = (os.geteuid(), 0)  # the administrator can change everything anyway
    try:
        link, status = folder.lstat(), folder.stat()
    except OSError:
        return None
    if link.st_uid not in trusted or status.st_uid not in trusted:
        return f"{str(folder)!r} belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users can write to {str(folder)!r}"
    return None
