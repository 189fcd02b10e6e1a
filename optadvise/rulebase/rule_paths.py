"""Search for the rule files in a folder, and reading of their bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError

Contents: TypeAlias = list[tuple[int, Path, bytes]]  # layer number, path and bytes of each file

_HERE = Path(__file__).parent
NETWORKS, FRAMEWORKS, RECIPES = _FOLDERS_APART = ("networks", "frameworks", "recipes")  # read on first access
SURFACES, CLAIMS, WORDS = _FILES_APART = ("surfaces", "claims", "words")  # read on first access
_SINGLE_FILES = ("facts", "assume", "gpus", "memory", "no_card", "sources")
_FOLDERS = ("optimizers", "schedulers", "decide")
_TABLE_FILES = ("adjust", "warn", "fixes", "flowchart", "policy")
_BASE = "facts.yaml"  # a folder with this file is a complete set of rules
_MAX_FILE_BYTES, _MAX_LAYER_BYTES = 2**20, 4 * 2**20  # the shipped rules have a third of a MiB


def find_shipped_rules() -> Path:
    """Return the folder of the shipped rules: inside an installed package, or next to the package in a checkout."""
    packaged = _HERE.parent / "_rules"
    return packaged if packaged.is_dir() else _HERE.parent.parent / "rules"


def list_rule_files(layer: Path) -> list[Path]:
    """Return a layer's YAML files in reading order, without files that are read on first access.

    Raises:
        InputError: The folder does not exist, cannot be read or has no rule files.
        RuleFileError: A YAML file has an unsupported name.
    """
    try:
        is_folder = layer.is_dir()
    except (OSError, ValueError):
        is_folder = False
    if not is_folder:
        problem = "is not a folder" if os.path.lexists(layer) else "the folder does not exist"
        raise _missing_rules(layer, f"{problem}; create one with optadvise rules init")
    files = list_yaml_files(layer)
    accepted = [*_SINGLE_FILES, *_TABLE_FILES, *_FILES_APART]
    for file in files:
        if file.stem not in accepted:
            names = ", ".join(f"{name}.yaml" for name in accepted)
            message = f"rule files with this name are not supported here; accepted: {names}; tables belong in decide/"
            raise RuleFileError(message, str(file), code=ErrorCode.WRONG_FILE_TYPE)
    apart = [file for file in files if file.stem in _FILES_APART]
    files = [file for file in files if file not in apart]
    for name in _FOLDERS:
        files += list_yaml_files(layer / name)
    if not files and not apart and not any(list_yaml_files(layer / name) for name in _FOLDERS_APART):
        places = ", ".join(f"{name}/" for name in (*_FOLDERS, *_FOLDERS_APART))
        raise _missing_rules(layer, f"the folder contains no rule files; add YAML files to it or to {places}")
    return files


def _missing_rules(layer: Path, problem: str) -> InputError:
    message = f"--rules {str(layer)!r}: {problem}"
    return InputError(message, code=ErrorCode.FILE_NOT_FOUND, option="--rules", value=layer)


def _unreadable(file: str, error: OSError) -> RuleFileError:
    return RuleFileError(f"cannot be read ({error.strerror})", file, code=ErrorCode.FILE_UNREADABLE)


def list_yaml_files(folder: Path) -> list[Path]:
    """Return a folder's YAML files, sorted by name; empty if the folder does not exist.

    Raises:
        RuleFileError: The folder cannot be read, or a file is not a regular file.
    """
    files = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".yaml", ".yml")) and not entry.is_dir():
                    if not entry.is_file():
                        message = "is not a regular file; remove it or replace it by a YAML file"
                        raise RuleFileError(message, entry.path, code=ErrorCode.FILE_UNREADABLE)
                    if not entry.name.isprintable():
                        message = "the name of the file has an invisible character; rename the file"
                        raise RuleFileError(message, entry.path, code=ErrorCode.FILE_UNREADABLE)
                    files.append(Path(entry.path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(str(error.filename or folder), error) from error
    return sorted(files)


def is_base(layer: Path) -> bool:
    """Return whether a folder is a complete set of rules instead of a layer over others."""
    try:
        return (layer / _BASE).is_file()
    except (OSError, ValueError):  # such as a path that is too long
        return False


def read_contents(layers: Sequence[Path], files: Callable[[Path], list[Path]]) -> Contents:
    """Return the layer number, path and bytes of every file.

    Raises:
        RuleFileError: A file cannot be read, or files are too large.
    """
    read = []
    for index, layer in enumerate(layers):
        total = 0
        for file in files(layer):
            try:
                with file.open("rb") as opened:
                    content = opened.read(_MAX_FILE_BYTES + 1)
            except OSError as error:
                raise _unreadable(str(file), error) from error
            total += len(content)
            if len(content) > _MAX_FILE_BYTES or total > _MAX_LAYER_BYTES:
                message = "too large; a rule file must be at most 1 MiB and a rule layer at most 4 MiB"
                raise RuleFileError(message, str(file), code=ErrorCode.FILE_UNREADABLE)
            read.append((index, file, content))
    return read


def find_files_named(layer: Path, stem: str) -> list[Path]:
    """Return a layer's YAML files with a name, with either extension."""
    return [file for file in list_yaml_files(layer) if file.stem == stem]
