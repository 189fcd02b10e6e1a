"""Folders of the cache and of the user's data."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data_folder() -> Path:
    """Return the folder of saved results and of this machine's evidence.

    Raises:
        RuntimeError: The user has no home folder.
    """
    if override := os.environ.get("OPTADVISE_DATA_DIR"):
        return Path(override)
    return _user_folder("Application Support", "XDG_DATA_HOME", ".local/share")


def cache_folder() -> Path | None:
    """Return the folder of the cache, None where `OPTADVISE_NO_CACHE` turns it off.

    Raises:
        RuntimeError: The user has no home folder.
    """
    if os.environ.get("OPTADVISE_NO_CACHE"):
        return None
    if override := os.environ.get("OPTADVISE_CACHE_DIR"):
        return Path(override)
    return _user_folder("Caches", "XDG_CACHE_HOME", ".cache")


def _user_folder(library: str, variable: str, default: str) -> Path:
    """Return the program's folder in the place that the platform has for a kind of files.

    Args:
        library: The place below ~/Library on macOS.
        variable: The environment variable that names the place on Linux.
        default: The place below the home folder where the variable is not set.
    """
    home = Path.home()
    platform_folders = {
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
        "darwin": home / "Library" / library,
    }
    linux = Path(os.environ.get(variable) or home / default)
    return platform_folders.get(sys.platform, linux) / "optadvise"
