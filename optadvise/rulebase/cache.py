"""The cache: what was read from rule files, under the digest of the files and of the reading code.

A stale entry has another name and cannot be found. The cache is an optimisation only: any trouble with it means that
the YAML is read.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from optadvise.core.files import replace_file
from optadvise.core.paths import cache_folder
from optadvise.core.version import __version__

_EntryT = TypeVar("_EntryT")
_PACKAGE = Path(__file__).parent.parent
_READING = ("rulebase", "memory", "core")  # packages whose code decides what an entry holds
_MOST_ENTRIES = 30  # files, the latest


def cached(key: str, kind: type[_EntryT], read: Callable[[], _EntryT]) -> _EntryT:
    """Return an entry of the cache, read anew where there is none."""
    stored = _read_entry(key, kind)
    if stored is None:
        stored = read()
        _write_entry(key, stored)
    return stored


class DiskCache:
    """Figures that follow from the rules alone, worked out once and kept for later processes.

    Example:
        >>> DiskCache("").get("answer", lambda: [6 * 7])
        [42]
    """

    _MOST = 200  # figures that are kept, the latest; reading more would cost more than making some anew

    def __init__(self, key: str) -> None:
        """Open the figures of a key; none are kept for an empty one."""
        self._key = key
        self._figures: dict[str, list[Any]] | None = None

    def get(self, name: str, make: Callable[[], list[Any]]) -> list[Any]:
        """Return a figure, worked out where it is not stored.

        Args:
            name: What it depends on beside the rules.
            make: Works it out, as plain JSON.
        """
        if self._figures is None:
            self._figures = (_read_entry(self._key, dict[str, list[Any]]) if self._key else None) or {}
        figure = self._figures.get(name)
        if figure is None:
            figure = self._figures[name] = make()
            if self._key:
                atexit.unregister(self._save)
                atexit.register(self._save)
        return figure

    def _save(self) -> None:
        latest = list((self._figures or {}).items())[-self._MOST :]
        _write_entry(self._key, dict(latest))


def digest_contents(*files: Path) -> str:
    """Return a digest of the content of files, in hexadecimal."""
    digest = blake2b()
    for file in files:
        digest.update(file.read_bytes())
    return str(digest.hexdigest())


@functools.cache
def code_digest() -> bytes:
    """Return a digest of the code that decides what the cache holds: the name, size and time of each file.

    The contents are not read, as that takes longer than reading the cache.
    """
    digest = blake2b(__version__.encode())
    for package in _READING:
        for file in sorted((_PACKAGE / package).rglob("*.py")):
            status = file.stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.digest()


def _entry_file(key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{key[:40]}.json"


def _read_entry(key: str, kind: type[_EntryT]) -> _EntryT | None:
    try:
        file = _entry_file(key)
        if file is None:
            return None
        stored_key, _, payload = file.read_bytes().partition(b"\n")
        return msgspec.json.decode(payload, type=kind) if stored_key == key.encode() else None
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home folder
        return None


def _write_entry(key: str, entry: Any) -> None:
    try:
        file = _entry_file(key)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, key.encode() + b"\n" + msgspec.json.encode(entry))
            _drop_old(file.parent)
    except (OSError, RuntimeError):
        return


def _drop_old(folder: Path) -> None:
    def modified(file: Path) -> float:
        return file.stat().st_mtime

    for file in sorted(folder.glob("*-*.json"), key=modified, reverse=True)[_MOST_ENTRIES:]:
        file.unlink(missing_ok=True)
