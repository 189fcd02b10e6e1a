"""Reads `rules/claims.yaml`: sentences that an experiment can refute.

Apart from the other rules and with a cache entry of its own, as only `verify` and what it found need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optadvise.core.errors import RuleFileError, nearest
from optadvise.core.records import EXPERIMENTS
from optadvise.core.yaml_reader import checked, many, mapping, number, one_of, plain, record, reference, text
from optadvise.rulebase.conditions import span
from optadvise.rulebase.shapes import cites, identifier, optimizer_ref, word

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
     "needs": text, "about": many(optimizer_ref, 1), "supports": many(reference("rule"))},
    located=True,
)  # fmt: skip
claims = record({"claims": many(claim, 1)})
_NO_NUMBERS = ("network", "surface", "dtype", "shape", "scales")  # of what a setting says
_TOGETHER = ("experiment", "trials", "measures", "holds")


def read_claims(
    contents: Sequence[tuple[int, Path, bytes]], known: Mapping[str, Iterable[str]], cards: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return every claim by its id; a later layer's takes the place of an earlier one's.

    Args:
        contents: Layer number, path and bytes of each file.
        known: The ids that a file may refer to, by their kind.
        cards: Every optimizer's card, whose implementations and hyperparameters trials name.

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
            for trial in entry.get("trials", ()):
                _check_trial(trial, cards[trial["optimizer"]], entry["at"])
            found[entry["id"]] = entry
    for card in cards.values():
        for reason in (*card["use_when"], *card["avoid_when"]):
            name = reason.get("claim")
            if name is not None and name not in found:
                message = f"rests on the claim {name!r}, which is not there; {nearest(name, found)}"
                raise RuleFileError(message, card["at"])
    return found


def _check(entry: Mapping[str, Any]) -> None:
    """A claim has an experiment with all that belongs to it, or says what it would need."""
    there = [key for key in _TOGETHER if key in entry]
    if ("needs" in entry) == bool(there) or len(there) not in (0, len(_TOGETHER)):
        raise RuleFileError(f"a claim has {', '.join(_TOGETHER)}, or else `needs`", entry["at"])
    seeds = entry.get("seeds", 1)
    if not (isinstance(seeds, int) and 1 <= seeds <= _MOST_SEEDS):
        raise RuleFileError(f"`seeds` is a whole number from 1 to {_MOST_SEEDS}", entry["at"])
    if not there:
        return
    design, setting = EXPERIMENTS[entry["experiment"]], entry.get("setting", {})
    wrong = [name for name, value in setting.items() if name not in _NO_NUMBERS and not _positive(value)]
    if wrong:
        raise RuleFileError(f"`{wrong[0]}` is a number above zero", entry["at"])
    missing = [name for name in design.setting if name not in setting]
    if len(entry["trials"]) != design.sides or missing:
        needs = f"{design.sides} trial{'s' if design.sides > 1 else ''} and a setting with {', '.join(design.setting)}"
        raise RuleFileError(f"the experiment {entry['experiment']} needs {needs}", entry["at"])
    if any(bool(trial.get("rates")) != design.rates for trial in entry["trials"]):
        word = "needs" if design.rates else "takes no"
        raise RuleFileError(f"the experiment {entry['experiment']} {word} `rates` in each trial", entry["at"])
    if setting.get("last", 0) > setting.get("steps", 0) // setting.get("times", 1):
        raise RuleFileError("`last` is longer than the shortest training", entry["at"])


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _check_trial(trial: Mapping[str, Any], card: Mapping[str, Any], at: str) -> None:
    """A trial names what its optimizer has."""
    made = [implementation["id"] for implementation in card["implementations"]]
    numbers = [hyperparameter["name"] for hyperparameter in card["hyperparameters"]]
    named = [("implementation", trial.get("implementation", made[0]), made)]
    named += [("hyperparameter", name, numbers) for name in trial.get("numbers", {})]
    for kind, name, there in named:
        if name not in there:
            raise RuleFileError(f"{card['id']} has no {kind} {name!r}; {nearest(name, there)}", at)
    whole = isinstance(trial.get("warmup", 0), int) and trial.get("warmup", 0) >= 0
    if not whole or not all(rate > 0 for rate in trial.get("rates", ())):
        raise RuleFileError("rates are above zero, and `warmup` is a number of steps", at)
