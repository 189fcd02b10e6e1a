"""Folders of rule layers: from pyproject.toml, the environment and the command line, in that order."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.foreign import ForeignFileError, clean_strings, read_bounded
from optadvise.rule_analysis.check import require_proof
from optadvise.rulebase.catalog import Catalog, load, load_shipped
from optadvise.rulebase.imports import OPTION

VARIABLE = "OPTADVISE_RULES"
IMPORTS_VARIABLE = "OPTADVISE_ALLOW_IMPORTS"
_SECTION = "tool.optadvise"
_KEYS = ("rules",)
_MAX_PROJECT_BYTES = 4 * 2**20
_folders_in_use: list[str] = []


def remember_folders(folders: Sequence[Path]) -> None:
    """Store the folders in use, for error messages."""
    _folders_in_use[:] = map(str, folders)


def get_folders_in_use() -> list[str]:
    """Return the folders of rule layers in use."""
    return list(_folders_in_use)


def list_folders(option: Sequence[Path] | None) -> list[Path]:
    """Return the folders of all rule layers, the lowest layer first.

    Args:
        option: Folders from `--rules`.

    Raises:
        InputError: The pyproject.toml is invalid.
    """
    from_environment = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    folders = [*_read_project(), *from_environment, *(option or ())]
    remember_folders(folders)
    return folders


def list_allowed_imports(option: Sequence[str] | None) -> list[str]:
    """Return the packages and modules that the environment and the command line allow to import.

    Args:
        option: Values of `--allow-imports`.

    Raises:
        InputError: One is not the name of a package or module.
    """
    from_environment = [name.strip() for name in os.environ.get(IMPORTS_VARIABLE, "").split(",") if name.strip()]
    names = [*from_environment, *([option] if isinstance(option, str) else option or ())]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            source = IMPORTS_VARIABLE if name in from_environment else OPTION
            message = f"{source} {name!r} must be the name of a package or module, such as our_package.optimizers"
            raise InputError(message, code=ErrorCode.INVALID_VALUE, option=source, value=name)
    return names


def load_catalog(option: Sequence[Path] | None, allow_imports: Sequence[str] | None = None) -> Catalog:
    """Load the catalog with all rule layers, without proofs.

    Args:
        option: Folders from `--rules`.
        allow_imports: Packages or modules from `--allow-imports`.
    """
    folders, allowed = list_folders(option), list_allowed_imports(allow_imports)
    catalog = load(folders) if folders else load_shipped()
    return catalog.allow_imports(allowed) if allowed else catalog


def load_rules(option: Sequence[Path] | None, allow_imports: Sequence[str] | None = None) -> CompiledRules:
    """Load and compile the rules with all layers, and prove them if there are layers over the shipped rules.

    Args:
        option: Folders from `--rules`.
        allow_imports: Packages or modules from `--allow-imports`.

    Raises:
        RuleFileError: A layer is invalid, or the proof fails.
    """
    rules = CompiledRules(load_catalog(option, allow_imports))
    is_shipped = len(rules.catalog.layers) == 1 and rules.catalog.shipped  # proven by the test suite
    return rules if is_shipped else require_proof(rules)


def _read_project() -> list[Path]:
    """Return the folders from the nearest pyproject.toml."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # the folder was removed
        return []
    for parent in (folder, *folder.parents):
        file = parent / "pyproject.toml"
        if _is_planted(file):
            continue
        try:
            content = read_bounded(file, _MAX_PROJECT_BYTES, allow_pipe=False)
        except ForeignFileError:
            continue
        return _parse_project(file, content) if b"[tool.optadvise" in content else []  # parsing is slow
    return []


def _is_planted(file: Path) -> bool:
    """Return whether a file of another user is in a folder that everybody can write to, such as /tmp."""
    if not hasattr(os, "geteuid"):  # Windows
        return False
    try:
        owner, mode = file.lstat().st_uid, file.parent.stat().st_mode
    except OSError:
        return False
    return owner not in (0, os.geteuid()) and bool(mode & stat.S_IWOTH)


def _parse_project(file: Path, content: bytes) -> list[Path]:
    if sys.version_info >= (3, 11):  # imported here, because few projects have rule layers
        import tomllib
    else:
        import tomli as tomllib

    try:
        tool: Any = tomllib.loads(content.decode("utf-8")).get("tool")
        # A comment may name the section.
        section: Any = clean_strings(tool.get("optadvise", {})) if isinstance(tool, dict) else {}
    except (ValueError, RecursionError, ForeignFileError) as error:
        message = f"{file}: invalid TOML ({error}); correct the file or use another folder"
        raise InputError(message, code=ErrorCode.INVALID_SYNTAX, value=file) from error
    if not isinstance(section, dict):
        message = f"{file}: [{_SECTION}] must be a table; accepted: {', '.join(_KEYS)}"
        raise InputError(message, code=ErrorCode.INVALID_ENTRY, value=section)
    for key in section:
        if key not in _KEYS:
            message = f"{file}: unknown key {key!r} in [{_SECTION}]; {suggest_name(key, _KEYS)}"
            raise InputError(message, code=ErrorCode.UNKNOWN_KEY, value=key)
    names = section.get("rules", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        message = f'{file}: `rules` in [{_SECTION}] must be a list of folders, such as rules = ["team-rules"]'
        raise InputError(message, code=ErrorCode.INVALID_ENTRY, value=names)
    return [file.parent / name for name in names]
