"""Reads `rules/surfaces.yaml`: the surfaces of two weights that optimizers are watched on.

Apart from the other rules and with a cache entry of its own, as only pictures need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optadvise.core.errors import RuleFileError
from optadvise.core.records import FAMILIES, MOST_STEPS
from optadvise.core.yaml_reader import Shape, checked, many, mapping, maybe, number, one_of, record, text
from optadvise.rulebase.shapes import cites, optimizer_ref, word

_because: dict[str, Shape] = {"because": text, "cite": cites}
_pair = many(number, 2)
_rate = record(_because, {"lr": number, "times": number}, located=True)  # `times` the card's own default
surface = record(
    {
        "id": word,
        "name": text,
        "formula": text,
        "x": _pair,
        "y": _pair,
        "start": _pair,
        "steps": number,
        "minimum": maybe(_pair),
        "goal": record({"at_most": number, "say": text}),
        "rates": record({"adam": _rate, "sgd": _rate, "own": _rate}),
        "cite": cites,
    },
    {
        "families": mapping(one_of(*FAMILIES), record({"factor": number, **_because}, located=True)),
        "optimizers": mapping(optimizer_ref, _rate),
    },
    located=True,
)
surfaces = record({}, {"surfaces": many(surface, 1), "walkers": many(optimizer_ref, 1)})


def read_surfaces(
    contents: Sequence[tuple[int, Path, bytes]], known: Mapping[str, Iterable[str]]
) -> dict[str, list[Any]]:
    """Return the surfaces, and the optimizers that are watched where none is named; later layers change earlier ones.

    Args:
        contents: Layer number, path and bytes of each file.
        known: The ids that a file may refer to, by their kind.

    Raises:
        RuleFileError: A file is invalid; the message says where.
    """
    found: dict[str, list[Any]] = {"surfaces": [], "walkers": []}
    for _, file, content in contents:
        read, _, _ = checked(surfaces, content, str(file), known)
        for one in read.get("surfaces", []):
            _check_surface(one)
            found["surfaces"] = [other for other in found["surfaces"] if other["id"] != one["id"]] + [one]
        found["walkers"] = read.get("walkers") or found["walkers"]
    return found


def _check_surface(surface: dict[str, Any]) -> None:
    """Ranges that hold what starts in them, and rates that are one."""
    for name in ("x", "y", "start", "minimum"):
        if surface[name] is not None and len(surface[name]) != 2:
            raise RuleFileError(f"`{name}` is a pair of numbers, not {len(surface[name])}", surface["at"])
    for point in (surface["start"], surface["minimum"] or surface["start"]):
        for value, name in zip(point, ("x", "y"), strict=True):
            low, high = surface[name]
            if not low < value < high:
                raise RuleFileError(f"{value} lies outside of `{name}`, {low} to {high}", surface["at"])
    if not (isinstance(surface["steps"], int) and 0 < surface["steps"] <= MOST_STEPS):
        raise RuleFileError(f"`steps` is a whole number from 1 to {MOST_STEPS:,}", surface["at"])
    for rate in (*surface["rates"].values(), *surface.get("optimizers", {}).values()):
        if ("lr" in rate) == ("times" in rate) or not rate.get("lr", rate.get("times")) > 0:
            raise RuleFileError("a rate has either `lr` or `times`, above zero", rate["at"])
    for family in surface.get("families", {}).values():
        if not family["factor"] > 0:
            raise RuleFileError("`factor` is above zero", family["at"])
