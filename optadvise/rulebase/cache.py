"""Cache of parsed rule files, keyed by a digest of the files and of the code that reads them.

A changed file or changed code has another key, so entries never become stale. If the cache cannot be used, the YAML
files are read.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import re
import warnings
import zlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from optadvise.core.errors import OptadviseWarning
from optadvise.core.foreign import ForeignFileError, read_bounded
from optadvise.core.paths import cache_folder
from optadvise.core.private_files import is_private, write_private_file
from optadvise.core.version import __version__

_EntryT = TypeVar("_EntryT")
_PACKAGE = Path(__file__).parent.parent
_READING = ("rulebase", "memory", "core")  # packages whose code determines the content of entries
_MAX_ENTRIES = 30  # the oldest files above this number are deleted
_KEY = re.compile(r"[a-z]+-[0-9a-f]{128}")
_ENTRY_NAME = re.compile(r"[a-z]+-[0-9a-f]+\.json")


def cached(key: str, kind: type[_EntryT], read: Callable[[], _EntryT]) -> _EntryT:
    """Return an entry of the cache; on a miss, call `read` and store the result."""
    stored = _read_entry(key, kind)
    if stored is None:
        stored = read()
        _write_entry(key, stored)
    return stored


class DiskCache:
    """Values computed from the rules alone, stored for later processes.

    Example:
        >>> DiskCache("").get("answer", lambda: [6 * 7])
        [42]
    """

    _MAX_VALUES = 200  # only the latest are stored; loading more would take longer than recomputing some

    def __init__(self, key: str) -> None:
        """Open the values of a key; with an empty key, nothing is stored."""
        self._key = key
        self._values: dict[str, list[Any]] | None = None

    def get(self, name: str, compute: Callable[[], list[Any]]) -> list[Any]:
        """Return a stored value; on a miss, compute it.

        Args:
            name: Everything besides the rules that the value depends on.
            compute: Returns the value as plain JSON data.
        """
        if self._values is None:
            self._values = (_read_entry(self._key, dict[str, list[Any]]) if self._key else None) or {}
        value = self._values.get(name)
        if value is None:
            value = self._values[name] = compute()
            if self._key:
                atexit.unregister(self._save)
                atexit.register(self._save)
        return value

    def _save(self) -> None:
        latest = list((self._values or {}).items())[-self._MAX_VALUES :]
        _write_entry(self._key, dict(latest))


def open_disk_cache(key: str) -> DiskCache:
    """Return the values of a key, which all catalogs of a process share: they are written only when it ends."""
    with contextlib.suppress(OSError):
        return _open_in_folder(key, cache_folder())
    return DiskCache(key)


@functools.lru_cache(maxsize=16)
def _open_in_folder(key: str, folder: Path | None) -> DiskCache:
    return DiskCache(key)


def digest_contents(*files: Path) -> str:
    """Return a hexadecimal digest of the content of files."""
    digest = blake2b()
    for file in files:
        digest.update(file.read_bytes())
    return str(digest.hexdigest())


@functools.cache
def code_digest() -> bytes:
    """Return a digest of the name, size and modification time of the source files that determine cache entries.

    The contents are not read, because that would take longer than reading the cache.
    """
    digest = blake2b(__version__.encode())
    for package in _READING:
        for file in sorted((_PACKAGE / package).rglob("*.py")):
            status = file.stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.digest()


def _find_folder() -> Path | None:
    """Return the folder of the cache; None if it is disabled or if other users can change it.

    Raises:
        OSError: The user has no home folder.
    """
    folder = cache_folder()
    return folder if folder is not None and is_private(folder, folder, "OPTADVISE_CACHE_DIR") else None


def _name_entry(key: str) -> str:
    return f"{key[:40]}.json"


def _read_entry(key: str, kind: type[_EntryT]) -> _EntryT | None:
    """Return an entry; None if it does not exist, or is damaged, which is a warning."""
    try:
        folder = _find_folder()
        file = None if folder is None else folder / _name_entry(key)
        content = None if file is None else read_bounded(file, allow_pipe=False)
    except (ForeignFileError, OSError):
        return None
    if file is None or content is None:
        return None
    header, _, payload = content.partition(b"\n")
    with contextlib.suppress(ValueError):
        if header == _make_header(key, payload):
            return msgspec.json.decode(payload, type=kind)
    warnings.warn(f"cache entry {str(file)!r} is damaged; replaced", OptadviseWarning, stacklevel=2)
    return None


def _write_entry(key: str, entry: Any) -> None:
    with contextlib.suppress(OSError):
        folder = _find_folder()
        if folder is not None:
            payload = msgspec.json.encode(entry)
            write_private_file(folder, folder / _name_entry(key), _make_header(key, payload) + b"\n" + payload)
            _delete_old_entries(folder)


def _make_header(key: str, payload: bytes) -> bytes:
    """Return the first line of an entry's file: its key and the checksum of its payload."""
    return f"{key} {zlib.crc32(payload):08x}".encode()


def _delete_old_entries(folder: Path) -> None:
    """Delete the oldest entries above the maximum; other files of the folder are never deleted."""

    def modified(file: Path) -> float:
        return file.stat().st_mtime

    files = [file for file in folder.glob("*-*.json") if _ENTRY_NAME.fullmatch(file.name)]
    for file in sorted(files, key=modified, reverse=True)[_MAX_ENTRIES:]:
        if _is_entry(file):
            file.unlink(missing_ok=True)


def _is_entry(file: Path) -> bool:
    """Return whether this module wrote a file: its first line begins with the key that its name was made of."""
    try:
        key = read_bounded(file, allow_pipe=False).partition(b" ")[0].decode("ascii", errors="replace")
    except ForeignFileError:
        return False
    return _KEY.fullmatch(key) is not None and _name_entry(key) == file.name
