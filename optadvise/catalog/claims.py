"""Reads `rules/claims.yaml`: sentences that an experiment can refute.

Apart from the other rules and with a cache entry of its own, as only `verify` and what it found need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optadvise.catalog.conditions import span
from optadvise.catalog.reader import checked, many, mapping, number, one_of, plain, record, reference, text
from optadvise.catalog.shapes import cites, identifier, optimizer_ref, word
from optadvise.domain import EXPERIMENTS
from optadvise.errors import RuleFileError, nearest

_MOST_SEEDS = 20
_trial = record(
    {"optimizer": optimizer_ref},
    {"implementation": word, "numbers": mapping(identifier, plain), "rates": many(number, 2), "warmup": number,
     "max_grad_norm": number},
)  # fmt: skip
claim = record(
    {"id": word, "claim": text, "cite": cites},
    {"says": text, "experiment": one_of(*EXPERIMENTS), "trials": many(_trial, 1), "setting": mapping(identifier, plain),
     "measures": text, "holds": span, "seeds": number, "devices": many(one_of("cpu", "cuda"), 1), "limits": text,
     "needs": text, "supports": many(reference("rule"))},
    located=True,
)  # fmt: skip
claims = record({"claims": many(claim, 1)})
_TOGETHER = ("experiment", "trials", "measures", "holds")


def read_claims(
    contents: Sequence[tuple[int, Path, bytes]], known: Mapping[str, Iterable[str]], named: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return every claim by its id; a later layer's takes the place of an earlier one's.

    Args:
        contents: Layer number, path and bytes of each file.
        known: The ids that a file may refer to, by their kind.
        named: The claims that cards rest on.

    Raises:
        RuleFileError: A file is invalid, or a card rests on a claim that is not there.
    """
    found: dict[str, dict[str, Any]] = {}
    for _, file, content in contents:
        read, _, _ = checked(claims, content, str(file), known)
        once: set[str] = set()
        for entry in read["claims"]:
            if entry["id"] in once:
                raise RuleFileError(f"the claim {entry['id']!r} appears twice; keep one", entry["at"])
            once.add(entry["id"])
            _check(entry)
            found[entry["id"]] = entry
    for name in named:
        if name not in found:
            raise RuleFileError(f"a card rests on the claim {name!r}, which is not there; {nearest(name, found)}")
    return found


def _check(entry: Mapping[str, Any]) -> None:
    """A claim has an experiment with all that belongs to it, or says what it would need."""
    there = [key for key in _TOGETHER if key in entry]
    if ("needs" in entry) == bool(there) or len(there) not in (0, len(_TOGETHER)):
        raise RuleFileError(f"a claim has {', '.join(_TOGETHER)}, or else `needs`", entry["at"])
    if there:
        sides, settings = EXPERIMENTS[entry["experiment"]]
        missing = [name for name in settings if name not in entry.get("setting", {})]
        if len(entry["trials"]) != sides or missing:
            needs = f"{sides} trial{'s' if sides > 1 else ''} and a setting with {', '.join(settings)}"
            raise RuleFileError(f"the experiment {entry['experiment']} needs {needs}", entry["at"])
    seeds = entry.get("seeds", 1)
    if not (isinstance(seeds, int) and 1 <= seeds <= _MOST_SEEDS):
        raise RuleFileError(f"`seeds` is a whole number from 1 to {_MOST_SEEDS}", entry["at"])
    for trial in entry.get("trials", ()):
        if not all(rate > 0 for rate in trial.get("rates", ())) or not (
            isinstance(trial.get("warmup", 0), int) and trial.get("warmup", 0) >= 0
        ):
            raise RuleFileError("rates are above zero, and `warmup` is a number of steps", entry["at"])
