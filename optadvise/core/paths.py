"""Folders of the cache and of user data."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path


def data_folder() -> Path:
    """Return the folder of saved results and of evidence from this machine.

    Raises:
        FileNotFoundError: The user has no home folder.
    """
    if override := os.environ.get("OPTADVISE_DATA_DIR"):
        return Path(override)
    return _user_folder("Application Support", "XDG_DATA_HOME", ".local/share")


def cache_folder() -> Path | None:
    """Return the folder of the cache; None if `OPTADVISE_NO_CACHE` disables it.

    Raises:
        FileNotFoundError: The user has no home folder.
    """
    if os.environ.get("OPTADVISE_NO_CACHE"):
        return None
    if override := os.environ.get("OPTADVISE_CACHE_DIR"):
        return Path(override)
    return _user_folder("Caches", "XDG_CACHE_HOME", ".cache")


def _user_folder(library: str, variable: str, default: str) -> Path:
    """Return optadvise's folder in the platform's standard location.

    Args:
        library: Folder in ~/Library on macOS.
        variable: Environment variable with the location on Linux.
        default: Location in the home folder if the variable is not set.
    """
    home = _find_home()
    platform_folders = {
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
        "darwin": home / "Library" / library,
    }
    chosen = Path(os.environ.get(variable, ""))
    linux = chosen if chosen.is_absolute() else home / default  # the XDG specification ignores relative paths
    return platform_folders.get(sys.platform, linux) / "optadvise"


def _find_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, "the user has no home folder") from error
