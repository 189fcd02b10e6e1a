"""Versions of the installed packages, read from the names of their `.dist-info` folders.

Importing `importlib.metadata` would take a fifth of the time of a recommendation.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from functools import cache


def find_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed.

    Example:
        >>> find_version("no-such-package") is None
        True
    """
    return _list_installed(tuple(sys.path)).get(_normalize(package))


def find_versions(packages: Iterable[str | None]) -> dict[str, str | None]:
    """Return the versions of torch and of packages by name; None for packages that are not installed."""
    return {package: find_version(package) for package in sorted({"torch", *(name for name in packages if name)})}


def parse_version(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; empty if it has none.

    Example:
        >>> parse_version("2.13.0+cu130")
        (2, 13, 0)
    """
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


@cache
def _list_installed(folders: tuple[str, ...]) -> dict[str, str]:
    """Return the version of every installed package by name; the first in Python's search order counts."""
    versions: dict[str, str] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder or "."):  # noqa: PTH208
                if entry.endswith(".dist-info"):
                    name, _, version = entry.removesuffix(".dist-info").partition("-")
                    versions.setdefault(_normalize(name), version)
    return versions


def _normalize(package: str) -> str:
    return package.lower().replace("-", "_").replace(".", "_")
