"""Find, read, validate and cache the rule files.

The cache holds what was read, under a name that is the digest of every file's content and of the reading code,
so a stale entry cannot be found. It is an optimisation only: any trouble with it means reading the YAML.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from optadvise.errors import InputError, RuleFileError

# As the standard library's own `random` does: hashlib loads OpenSSL, which is 3 ms of every start.
for _name in ("_sha2", "_sha256", "hashlib"):  # from Python 3.12, before it, and anywhere
    with contextlib.suppress(ImportError):
        sha256: Callable[..., Any] = import_module(_name).sha256
        break

_HERE = Path(__file__).parent
_SINGLE_FILES = ("facts", "assume", "gpus", "memory", "sources")
_NETWORKS = "networks"  # read apart, when a shape is asked for
_FOLDERS = ("optimizers", "schedulers", "decide", _NETWORKS)
_TABLE_FILES = ("adjust", "warn", "fixes")

Documents = dict[str, Any]


def shipped_rules() -> Path:
    """Return the folder of the rules that belong to this installation.

    An installed wheel carries its own copy beside the code; a checkout has the live folder beside the package.
    """
    packaged = _HERE.parent / "_rules"
    return packaged if packaged.is_dir() else _HERE.parent.parent / "rules"


def rule_files(layer: Path) -> list[Path]:
    """Return a layer's YAML files in reading order.

    Raises:
        InputError: The folder does not exist, cannot be read or holds no rule file.
        RuleFileError: It holds a YAML file in a place that nothing reads.
    """
    if not layer.is_dir():
        raise InputError(f"--rules {str(layer)!r}: no such folder; name a folder laid out like rules/")
    try:
        entries = sorted(layer.iterdir())
        files = [f for f in entries if f.suffix in (".yaml", ".yml") and not f.is_dir()]
        for folder in (f for f in entries if f.name in _FOLDERS and f.is_dir()):
            files += sorted(f for f in folder.iterdir() if f.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise InputError(f"--rules {str(layer)!r}: cannot be read ({error.strerror}); check its permissions") from error
    if not files:
        places = ", ".join(f"{name}/" for name in _FOLDERS)
        raise InputError(f"--rules {str(layer)!r}: holds no rule file; put YAML files into {places} or beside them")
    for file in files:
        if file.exists() and not file.is_file():
            raise RuleFileError("is no regular file; put a YAML file here", str(file))
        if file.parent == layer and file.stem not in (*_SINGLE_FILES, *_TABLE_FILES):
            known = ", ".join(f"{name}.yaml" for name in (*_SINGLE_FILES, *_TABLE_FILES))
            raise RuleFileError(f"a file of this name is not read; known here: {known}", str(file))
    return files


class Later(NamedTuple):
    """What most commands need none of."""

    networks: Callable[[], Documents]  # reads the descriptions of networks
    figures: Memo


class Memo:
    """Figures that follow from the rules alone, worked out once and kept beside the cache.

    Example:
        >>> Memo("").get("answer", lambda: [6 * 7])
        [42]
    """

    _MOST = 1000

    def __init__(self, key: str) -> None:
        """Take the figures of a key; none are kept for an empty one."""
        self._key = key
        self._known: Documents | None = None

    def get(self, name: str, make: Callable[[], list[Any]]) -> list[Any]:
        """Return a figure, made where it is not known.

        Args:
            name: What it depends on beside the rules.
            make: Works it out, as plain JSON.
        """
        if self._known is None:
            self._known = (_read_cache(self._key) if self._key else None) or {}
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = make()
            if self._key and len(self._known) <= self._MOST:
                atexit.unregister(self._save)
                atexit.register(self._save)
        return found

    def _save(self) -> None:
        _write_cache(self._key, self._known or {})


def load_documents(layers: Sequence[Path]) -> tuple[Documents, str, Later]:
    """Read and validate every file of the layers, or take them from the cache.

    Args:
        layers: Folders laid out like `rules/`; the first is the base, later ones add to it.

    Returns:
        The documents by kind, the fingerprint of all content, and what is read later.

    Raises:
        InputError: A folder is missing, unreadable or empty.
        RuleFileError: A file is invalid.
    """
    contents: list[tuple[int, Path, bytes]] = []
    for index, layer in enumerate(layers):
        for file in rule_files(layer):
            try:
                contents.append((index, file, file.read_bytes()))
            except OSError as error:
                raise InputError(f"--rules {str(file)!r}: cannot be read ({error.strerror})") from error
    fingerprint = sha256()
    for index, file, content in contents:
        fingerprint.update(f"{index}/{file.relative_to(layers[index])}\0{len(content)}\0".encode())
        fingerprint.update(content)
    key = sha256(fingerprint.digest() + _code_digest() + "\0".join(map(str, layers)).encode()).hexdigest()
    rules = [entry for entry in contents if entry[1].parent.name != _NETWORKS]
    networks = [entry for entry in contents if entry[1].parent.name == _NETWORKS]

    # What reads YAML is imported only where the cache has nothing.
    def read_rules() -> Documents:
        from optadvise.catalog.validate import read_documents

        return read_documents(rules)

    def read_networks() -> Documents:
        from optadvise.catalog.networks import read_networks

        return read_networks([(file, content) for _, file, content in networks])

    def networks_now() -> Documents:
        return _cached(f"networks-{key}", read_networks)

    later = Later(networks_now, Memo(f"figures-{key}"))
    return _cached(f"rules-{key}", read_rules), fingerprint.hexdigest()[:12], later


def _cached(key: str, read: Callable[[], Documents]) -> Documents:
    found = _read_cache(key)
    if found is None:
        found = read()
        _write_cache(key, found)
    return found


def _code_digest() -> bytes:
    digest = sha256()
    for file in sorted((*_HERE.glob("*.py"), *(_HERE.parent / "memory").glob("*.py"))):
        digest.update(file.read_bytes())
    return bytes(digest.digest())


def _cache_file(key: str) -> Path | None:
    if os.environ.get("OPTADVISE_NO_CACHE"):
        return None
    if override := os.environ.get("OPTADVISE_CACHE_DIR"):
        return Path(override) / f"{key[:40]}.json"
    home = Path.home()
    base = {
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
        "darwin": home / "Library" / "Caches",
    }.get(sys.platform, Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache"))
    return base / "optadvise" / f"{key[:40]}.json"


def _read_cache(key: str) -> Documents | None:
    try:
        file = _cache_file(key)
        if file is None:
            return None
        entry = json.loads(file.read_bytes())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    return entry["documents"] if isinstance(entry, dict) and entry.get("key") == key else None


def _write_cache(key: str, documents: Documents) -> None:
    try:
        file = _cache_file(key)
    except RuntimeError:
        return
    if file is None:
        return
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"key": key, "documents": documents}), encoding="utf-8")
        temporary.replace(file)
        _drop_old(file.parent, keep=30)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _drop_old(folder: Path, keep: int) -> None:
    def age(file: Path) -> float:
        return file.stat().st_mtime

    for file in sorted(folder.glob("*-*.json"), key=age, reverse=True)[keep:]:
        file.unlink(missing_ok=True)
