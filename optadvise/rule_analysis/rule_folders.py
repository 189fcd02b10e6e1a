"""Which folders of rules count: those of the project, of the environment and of the command line, in that order."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.errors import InputError, nearest
from optadvise.rulebase.catalog import Catalog, load

VARIABLE = "OPTADVISE_RULES"
_SECTION = "tool.optadvise"
_KEYS = ("rules",)


_in_use: list[str] = []


def reading(found: Sequence[Path]) -> None:
    """Remember which folders are read, for errors that only they can cause."""
    _in_use[:] = map(str, found)


def in_use() -> list[str]:
    """Return the folders of further rules that this command line reads."""
    return list(_in_use)


def folders(option: Sequence[Path] | None) -> list[Path]:
    """Return every folder of further rules.

    Args:
        option: What `--rules` named.

    Raises:
        InputError: The project's file is wrong.
    """
    named = [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    found = [*_of_the_project(), *named, *(option or ())]
    reading(found)
    return found


def catalog(option: Sequence[Path] | None) -> Catalog:
    """Return the catalogue with every further layer that counts, unproven."""
    return load(folders(option))


def advisor(option: Sequence[Path] | None) -> CompiledRules:
    """Return an advisor over every layer that counts; further layers are proven before they answer.

    Raises:
        RuleFileError: The layers are invalid or contradict each other.
    """
    found = CompiledRules(catalog(option))
    if len(found.catalog.layers) == 1 and found.catalog.shipped:
        return found  # proven by the tests of this version
    from optadvise.rule_analysis.check import trusted

    return trusted(found)


def _of_the_project() -> list[Path]:
    """Return what the nearest pyproject.toml names; most have no such section, and parsing one takes time."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder is gone
        return []
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        try:
            content = file.read_bytes()
        except OSError:
            continue
        return _named(file, content) if b"[tool.optadvise" in content else []
    return []


def _named(file: Path, content: bytes) -> list[Path]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        section: Any = tomllib.loads(content.decode("utf-8"))["tool"]["optadvise"]
    except (ValueError, KeyError) as error:
        raise InputError(f"{file}: not valid TOML ({error}); mend it, or run elsewhere") from error
    for key in section:
        if key not in _KEYS:
            raise InputError(f"{file}: [{_SECTION}] has no key {key!r}; {nearest(key, _KEYS)}")
    named = section.get("rules", [])
    if not isinstance(named, list) or not all(isinstance(name, str) and name for name in named):
        raise InputError(f'{file}: [{_SECTION}] `rules` takes a list of folders, as in rules = ["team-rules"]')
    return [file.parent / name for name in named]
