"""Were two results measured under the same conditions? Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import asdict

from optadvise.benchmark.comparison.loaded_result import ArmResult, Side, common_control
from optadvise.benchmark.spec import Spec

# How much was measured: what it changes is the width of the intervals, not what they are about.
_AMOUNT = ("steps", "rounds", "warmup", "seed", "threads")
_UNIMPORTANT = {"load", "packages", "executable", "device"}
_LOAD = 1.5  # that one's own earlier work leaves behind


def unlike(base: Side, new: Side) -> list[str]:
    """Return what differs so much that a ratio would not tell what the optimizer does."""
    before, after = _spec(base), _spec(new)
    found = _differing(before, after, [key for key in before if key not in _AMOUNT])
    found += _differing(base.environment, new.environment, [hardware(after)])
    for label, arm in new.arms.items():
        other = base.arms.get(label)
        if other and None not in (arm.parameters, other.parameters) and arm.parameters != other.parameters:
            found.append(f"the parameters of {label} are {other.parameters:,} in BASE and {arm.parameters:,} in NEW")
    return found


def doubts(base: Side, new: Side) -> list[str]:
    """Return what a reader of the ratios has to know, a line each."""
    found = [f"{side.role} was interrupted: it has fewer rounds than were asked for" for side in (base, new)
             if not side.complete]  # fmt: skip
    environment = {**base.environment, **new.environment}
    keys = [key for key in environment if key not in _UNIMPORTANT and key != hardware(_spec(new))]
    found += _differing(base.environment, new.environment, keys)
    found += _differing(_spec(base), _spec(new), [key for key in _AMOUNT if key != "threads"])
    before, after = base.environment["packages"], new.environment["packages"]
    found += _differing(before, after, sorted(before))
    return found + _load(base, new) + _arms(base, new)


def _spec(side: Side) -> Mapping[str, Any]:
    return {**asdict(Spec()), **side.spec}


def hardware(spec: Mapping[str, Any]) -> str:
    """Return what of an environment was measured: the processor, or the device's name.

    Args:
        spec: The conditions.
    """
    return "processor" if spec["device"] == "cpu" else "device_name"


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    both = [key for key in keys if key in before and key in after]
    differing = [key for key in both if before[key] != after[key]]
    return [f"{key} is {_word(before[key])} in BASE and {_word(after[key])} in NEW" for key in differing]


def _word(value: Any) -> str:
    return {"None": "not said", "True": "on", "False": "off"}.get(str(value), str(value))


def _load(base: Side, new: Side) -> list[str]:
    before, after = base.environment.get("load"), new.environment.get("load")
    room = max(_LOAD, (new.environment.get("cores") or 1) / 4)
    if before is None or after is None or abs(after - before) <= room:
        return []
    return [f"load is {before:.1f} in BASE and {after:.1f} in NEW: other work ran beside one of them"]


def _arms(base: Side, new: Side) -> list[str]:
    found = []
    for side, other in ((base, new), (new, base)):
        alone = [label for label in side.arms if label not in other.arms]
        found += [f"only in {side.role}: {', '.join(alone)}"] if alone else []
        found += [f"{a.label} is {a.status} in {side.role}: {a.error}" for a in side.arms.values() if a.status != "ok"]
    for label, arm in new.arms.items():
        before = base.arms.get(label)
        if before and before.made != arm.made:
            found.append(f"{label} is {_made(before)} in BASE and {_made(arm)} in NEW")
        elif before and before.kwargs != arm.kwargs:
            found.append(f"{label} has other hyperparameters in BASE than in NEW")
    without = [arm.label for arm in new.arms.values() if arm.role == "candidate" and arm.label in base.arms]
    if without and common_control(base, new) is None:
        found.append(
            f"no control that both have: the times of {', '.join(without)} carry whatever else changed between the runs"
        )
    return found


def _made(arm: ArmResult) -> str:
    path, variant = arm.made
    return f"{path} ({variant})" if variant else path
