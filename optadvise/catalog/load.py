"""Find, read, validate and cache the rule files.

The cache holds what was read, under a name that is the digest of every file's content and of the reading code,
so a stale entry cannot be found. It is an optimisation only: any trouble with it means reading the YAML.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from optadvise.errors import InputError, RuleFileError

# As the standard library's own `random` does: hashlib loads OpenSSL, which is 3 ms of every start.
for _name in ("_sha2", "_sha256", "hashlib"):  # from Python 3.12, before it, and anywhere
    with contextlib.suppress(ImportError):
        sha256: Callable[..., Any] = import_module(_name).sha256
        break

_HERE = Path(__file__).parent
_SINGLE_FILES = ("facts", "assume", "gpus", "sources")
_FOLDERS = ("optimizers", "schedulers", "decide")
_TABLE_FILES = ("adjust", "warn")

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


def load_documents(layers: Sequence[Path]) -> tuple[Documents, str]:
    """Read and validate every file of the layers, or take them from the cache.

    Args:
        layers: Folders laid out like `rules/`; the first is the base, later ones add to it.

    Returns:
        The documents by kind, and the fingerprint of the rules' content.

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
    cached = _read_cache(key)
    if cached is not None:
        return cached, fingerprint.hexdigest()[:12]
    from optadvise.catalog.validate import read_documents  # imports yaml, which a cache hit does not need

    documents = read_documents(contents)
    _write_cache(key, documents)
    return documents, fingerprint.hexdigest()[:12]


def _code_digest() -> bytes:
    digest = sha256()
    for file in sorted(_HERE.glob("*.py")):
        digest.update(file.read_bytes())
    return bytes(digest.digest())


def _cache_file(key: str) -> Path | None:
    if os.environ.get("OPTADVISE_NO_CACHE"):
        return None
    if override := os.environ.get("OPTADVISE_CACHE_DIR"):
        return Path(override) / f"rules-{key[:32]}.json"
    home = Path.home()
    base = {
        "win32": Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"),
        "darwin": home / "Library" / "Caches",
    }.get(sys.platform, Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache"))
    return base / "optadvise" / f"rules-{key[:32]}.json"


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
        _drop_old(file.parent, keep=20)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _drop_old(folder: Path, keep: int) -> None:
    def age(file: Path) -> float:
        return file.stat().st_mtime

    for file in sorted(folder.glob("rules-*.json"), key=age, reverse=True)[keep:]:
        file.unlink(missing_ok=True)
