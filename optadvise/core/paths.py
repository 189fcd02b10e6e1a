"""Where the program keeps its files: the cache, and the user's data."""

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
    home = Path.home()
    platform_folders = {
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
        "darwin": home / "Library" / "Application Support",
    }
    linux = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return platform_folders.get(sys.platform, linux) / "optadvise"


def cache_folder() -> Path | None:
    """Return the folder of the cache, None where `OPTADVISE_NO_CACHE` turns it off.

    Raises:
        RuntimeError: The user has no home folder.
    """
    if os.environ.get("OPTADVISE_NO_CACHE"):
        return None
    if override := os.environ.get("OPTADVISE_CACHE_DIR"):
        return Path(override)
    home = Path.home()
    platform_folders = {
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
        "darwin": home / "Library" / "Caches",
    }
    linux = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return platform_folders.get(sys.platform, linux) / "optadvise"
