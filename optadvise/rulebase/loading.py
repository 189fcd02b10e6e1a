"""Find, read, validate and cache the rule files.

The cache holds what was read, under a name that is the digest of every file's content and of the reading code,
so a stale entry cannot be found. It is an optimisation only: any trouble with it means reading the YAML.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.files import replace_file
from optadvise.core.paths import cache_folder
from optadvise.core.records import SHIPPED

# Straight from the C module: hashlib loads OpenSSL, which is 3 ms of every start.
for _name in ("_blake2", "hashlib"):
    with contextlib.suppress(ImportError):
        blake2b: Callable[..., Any] = import_module(_name).blake2b
        break

_HERE = Path(__file__).parent
_SINGLE_FILES = ("facts", "assume", "gpus", "memory", "sources")
_NETWORKS, _FRAMEWORKS = _APART = ("networks", "frameworks")  # read apart, when a shape or code is asked for
_SURFACES, _CLAIMS = _FILES_APART = ("surfaces", "claims")  # files that are read apart, when a picture or an audit is
_FOLDERS = ("optimizers", "schedulers", "decide")
_TABLE_FILES = ("adjust", "warn", "fixes", "flowchart", "policy")
_BASE = "facts.yaml"  # a folder that has it is complete by itself
_LARGEST_FILE, _LARGEST_LAYER = 2**20, 4 * 2**20  # bytes; the shipped rules have a third of one

Documents = dict[str, Any]


def shipped_rules() -> Path:
    """Return the folder of the rules that belong to this installation.

    An installed wheel carries its own copy beside the code; a checkout has the live folder beside the package.
    """
    packaged = _HERE.parent / "_rules"
    return packaged if packaged.is_dir() else _HERE.parent.parent / "rules"


def rule_files(layer: Path) -> list[Path]:
    """Return a layer's YAML files in reading order, but for what is read apart.

    Raises:
        InputError: The folder does not exist, cannot be read or holds no rule file.
        RuleFileError: It holds a YAML file in a place that nothing reads.
    """
    try:
        there = layer.is_dir()
    except (OSError, ValueError):
        there = False
    if not there:
        raise InputError(f"--rules {str(layer)!r}: no such folder; name a folder laid out like rules/")
    files = yaml_files(layer)
    known = [*_SINGLE_FILES, *_TABLE_FILES, *_FILES_APART]
    for file in files:
        if file.stem not in known:
            names = ", ".join(f"{name}.yaml" for name in known)
            raise RuleFileError(f"a file of this name is not read; known here: {names}", str(file))
    apart = [file for file in files if file.stem in _FILES_APART]
    files = [file for file in files if file not in apart]
    for name in _FOLDERS:
        files += yaml_files(layer / name)
    if not files and not apart and not any(yaml_files(layer / name) for name in _APART):
        places = ", ".join(f"{name}/" for name in (*_FOLDERS, *_APART))
        raise InputError(f"--rules {str(layer)!r}: holds no rule file; put YAML files into {places} or beside them")
    return files


def yaml_files(folder: Path) -> list[Path]:
    """Return a folder's YAML files by name, none where there is no folder."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".yaml", ".yml")) and not entry.is_dir():
                    if not entry.is_file():
                        raise RuleFileError("is no regular file; put a YAML file here", entry.path)
                    found.append(Path(entry.path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RuleFileError(f"cannot be read ({error.strerror}); check it", str(error.filename or folder)) from error
    return sorted(found)


class Memo:
    """Figures that follow from the rules alone, worked out once and kept beside the cache.

    Example:
        >>> Memo("").get("answer", lambda: [6 * 7])
        [42]
    """

    _MOST = 200  # that are kept for other processes, the latest; reading more would cost more than making some anew

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
            if self._key:
                atexit.unregister(self._save)
                atexit.register(self._save)
        return found

    def _save(self) -> None:
        latest = list((self._known or {}).items())[-self._MOST :]
        _write_cache(self._key, dict(latest))


def load_documents(layers: Sequence[Path], names: Sequence[str] = (SHIPPED,)) -> tuple[Documents, str, Later]:
    """Read and validate every file of the layers, or take them from the cache.

    Args:
        layers: Folders laid out like `rules/`; the first is the base, later ones change it.
        names: What answers call them.

    Returns:
        The documents by kind, the fingerprint of all content, and what is read later.

    Raises:
        InputError: A folder is missing or empty.
        RuleFileError: A file is invalid or cannot be read.
    """
    read = contents(layers, rule_files)
    fingerprint = _digest(read, layers)
    key = blake2b(fingerprint + _code_digest() + "\0".join(map(str, layers)).encode()).hexdigest()

    # What reads YAML is imported only where the cache has nothing.
    def read_rules() -> Documents:
        from optadvise.rulebase.validation import read_documents

        return read_documents(read, names)

    return _cached(f"rules-{key}", read_rules), fingerprint.hex()[:12], Later(layers, fingerprint)


def is_base(layer: Path) -> bool:
    """Is a folder of rules complete by itself, instead of a layer over others?"""
    return (layer / _BASE).is_file()


def contents(layers: Sequence[Path], files: Callable[[Path], list[Path]]) -> list[tuple[int, Path, bytes]]:
    """Return layer number, path and bytes of every file."""
    found = []
    for index, layer in enumerate(layers):
        whole = 0
        for file in files(layer):
            try:
                with file.open("rb") as opened:
                    content = opened.read(_LARGEST_FILE + 1)
            except OSError as error:
                raise RuleFileError(f"cannot be read ({error.strerror}); check it", str(file)) from error
            whole += len(content)
            if len(content) > _LARGEST_FILE or whole > _LARGEST_LAYER:
                raise RuleFileError("is larger than any rules are; at most 1 MiB a file and 4 MiB a folder", str(file))
            found.append((index, file, content))
    return found


def _digest(contents: Sequence[tuple[int, Path, bytes]], layers: Sequence[Path]) -> bytes:
    whole = blake2b()
    for index, file, content in contents:
        whole.update(f"{index}/{file.relative_to(layers[index])}\0{len(content)}\0".encode())
        whole.update(content)
    return bytes(whole.digest())


class Later:
    """What most commands need none of: the networks, the figures that follow from them, frameworks and surfaces."""

    def __init__(self, layers: Sequence[Path] = (), fingerprint: bytes = b"") -> None:
        """Remember where they are, and beside which rules."""
        self._layers = layers
        self._fingerprint = fingerprint

    def _found(
        self, files: Callable[[Path], list[Path]], beside: bytes = b""
    ) -> tuple[list[tuple[int, Path, bytes]], str]:
        read = contents(self._layers, files)
        digest = _digest(read, self._layers) + beside
        return read, str(blake2b(digest + _code_digest() + "\0".join(map(str, self._layers)).encode()).hexdigest())

    @cached_property
    def _networks(self) -> tuple[list[tuple[int, Path, bytes]], str]:
        return self._found(lambda layer: yaml_files(layer / _NETWORKS))

    def networks(self) -> Documents:
        """Return every family of networks by its id.

        Raises:
            RuleFileError: A file is invalid.
        """
        known, key = self._networks

        def read() -> Documents:
            from optadvise.rulebase.network_files import read_networks

            return read_networks([(file, content) for _, file, content in known])

        return _cached(f"networks-{key}", read)

    def figures(self) -> Memo:
        """Return the figures that are kept for these networks."""
        return Memo(f"figures-{self._networks[1]}" if self._layers else "")

    def frameworks(self, documents: Documents) -> Documents:
        """Return every framework by its id.

        Args:
            documents: The rules, whose sources, optimizers and schedules they refer to.

        Raises:
            RuleFileError: A file is invalid.
        """
        known, key = self._found(lambda layer: yaml_files(layer / _FRAMEWORKS), self._fingerprint)

        def read() -> Documents:
            from optadvise.rulebase.framework_files import read_frameworks

            return read_frameworks(known, _ids(documents))

        return _cached(f"frameworks-{key}", read)

    def surfaces(self, documents: Documents) -> Documents:
        """Return the surfaces, and the optimizers that are watched on them.

        Args:
            documents: The rules, whose sources and optimizers they refer to.

        Raises:
            RuleFileError: The file is invalid.
        """
        known, key = self._found(lambda layer: _named(layer, _SURFACES), self._fingerprint)

        def read() -> Documents:
            from optadvise.rulebase.surface_files import read_surfaces

            return read_surfaces(known, _ids(documents))

        return _cached(f"surfaces-{key}", read)

    def claims(self, documents: Documents) -> Documents:
        """Return every claim by its id.

        Args:
            documents: The rules, whose sources, optimizers and rules they refer to.

        Raises:
            RuleFileError: The file is invalid.
        """
        known, key = self._found(lambda layer: _named(layer, _CLAIMS), self._fingerprint)

        def read() -> Documents:
            from optadvise.rulebase.claim_files import read_claims

            rules = [row["id"] for table in documents["tables"].values() for row in table["rules"]]
            rules += documents["disabled_rules"]
            return read_claims(known, {**_ids(documents), "rule": rules}, documents["optimizers"])

        return _cached(f"claims-{key}", read)


def _named(layer: Path, stem: str) -> list[Path]:
    return [file for file in yaml_files(layer) if file.stem == stem]


def _ids(documents: Documents) -> dict[str, Documents]:
    return {kind: documents[f"{kind}s"] for kind in ("source", "optimizer", "scheduler", "fact")}


def _cached(key: str, read: Callable[[], Documents]) -> Documents:
    found = _read_cache(key)
    if found is None:
        found = read()
        _write_cache(key, found)
    return found


def _code_digest() -> bytes:
    packages = (_HERE, _HERE.parent / "memory", _HERE.parent / "core")
    return bytes.fromhex(hash_of(*sorted(file for package in packages for file in package.glob("*.py"))))


def hash_of(*files: Path) -> str:
    """Return a digest of the content of files, in hexadecimal."""
    digest = blake2b()
    for file in files:
        digest.update(file.read_bytes())
    return str(digest.hexdigest())


def _cache_file(key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{key[:40]}.json"


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
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps({"key": key, "documents": documents}))
        _drop_old(file.parent, keep=30)


def _drop_old(folder: Path, keep: int) -> None:
    def age(file: Path) -> float:
        return file.stat().st_mtime

    for file in sorted(folder.glob("*-*.json"), key=age, reverse=True)[keep:]:
        file.unlink(missing_ok=True)
