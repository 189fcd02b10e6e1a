"""Defaults and contradictions of inputs, compiled to bit masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from optadvise.core.records import SITUATION_DEFAULTS, FactValues, InputValue, Situation
from optadvise.rulebase.records import Condition, Contradiction
from optadvise.rulebase.regions import Box
from optadvise.rulebase.rule_base import RuleBase
from optadvise.rulebase.tables import Axis


class Inputs(Protocol):
    """Values by fact."""

    def get(self, fact: str, /) -> Any:
        """Return the value of a fact; None if unknown."""


class _Default(Struct, frozen=True):
    """Default value of a fact."""

    fact: str
    value: InputValue
    box: Box  # situations in which the default applies


class _Rejection(Struct, frozen=True):
    """Contradicting inputs."""

    rule: Contradiction
    box: Box


class _Effects(Struct, frozen=True):
    """Effects of a change of one fact."""

    defaults: Mapping[str, tuple[_Default, ...]]  # affected defaults of other facts, by fact
    rejections: tuple[Box, ...]


class CompiledDefaults:
    """Compiled defaults and contradictions of the rules."""

    def __init__(self, base: RuleBase, axes: Mapping[str, Axis]) -> None:
        """Compile the defaults and contradictions; the first default that applies to a fact is used."""
        self._axes = axes
        self._defaults = [_Default(fact=row.fact, value=row.value, box=self._make_box(row.when)) for row in base.assume]
        self._rejections = [_Rejection(rule=row, box=self._make_box(row.when)) for row in base.contradictions]
        self._unsuggested = [self._make_box(row.when) for row in base.unsuggested]
        self._facts = frozenset(row.fact for row in self._defaults)
        self._effects: dict[str, _Effects] = {}
        self.triggers = frozenset(name for row in self._defaults for name in row.box)  # facts that defaults depend on
        boxes = [*(row.box for row in self._rejections), *self._unsuggested]
        self.reads = self.triggers | {name for box in boxes for name in box}

    def _make_box(self, when: Mapping[str, Condition]) -> Box:
        return {name: self._axes[name].accepted(condition) for name, condition in when.items()}

    def _applies(self, box: Box, inputs: Inputs) -> bool:
        for name, mask in box.items():  # noqa: SIM110, a generator is 30 % slower in this innermost loop
            if not mask >> self._axes[name].cell(inputs.get(name)) & 1:
                return False
        return True

    def fill(self, inputs: FactValues) -> dict[str, InputValue]:
        """Return the inputs with all defaults added."""
        filled = dict(inputs)
        for row in self._defaults:
            if row.fact not in filled and self._applies(row.box, filled):
                filled[row.fact] = row.value
        return filled

    def find_contradiction(self, inputs: FactValues) -> Contradiction | None:
        """Return the first contradiction in complete inputs, or None."""
        return next((row.rule for row in self._rejections if self._applies(row.box, inputs)), None)

    def accepts(self, situation: Situation) -> bool:
        """Return whether no values of a run contradict each other."""
        inputs = _Overlay(situation, {})
        return not any(self._applies(row.box, inputs) for row in self._rejections)

    def is_suggested(self, before: Situation, after: Situation) -> bool:
        """Return whether answers suggest a run instead of another: no combination that they avoid is new."""
        old, new = _Overlay(before, {}), _Overlay(after, {})
        return not any(self._applies(box, new) and not self._applies(box, old) for box in self._unsuggested)

    def follow_change(self, situation: Situation, fact: str, value: InputValue) -> dict[str, InputValue] | None:
        """Return all values that change with one input, including defaults that depend on it.

        Returns:
            The new values by fact, or None if the change contradicts a stated input.
        """
        changes: dict[str, InputValue] = {fact: value}
        effects = self._find_effects(fact)
        if not effects.defaults and not effects.rejections:
            return changes
        # Derived values follow from the other values and cannot contradict them.
        unknown = dict.fromkeys(name for name in situation.assumed if name not in self._facts)
        after = _Overlay(situation, {**unknown, **changes})
        for name, rows in effects.defaults.items():
            if name in situation.assumed or getattr(situation, name) is None:
                default = next((row.value for row in rows if self._applies(row.box, after)), SITUATION_DEFAULTS[name])
                if default != getattr(situation, name):
                    changes[name] = after.changes[name] = default
        becomes_uneven = _is_uneven(after) and not _is_uneven(_Overlay(situation, {}))
        is_rejected = becomes_uneven or any(self._applies(box, after) for box in effects.rejections)
        return None if is_rejected else changes

    def _find_effects(self, fact: str) -> _Effects:
        """Return the defaults and contradictions that a change of a fact can affect."""
        if fact not in self._effects:
            affected: dict[str, tuple[_Default, ...]] = {}
            for name in dict.fromkeys(row.fact for row in self._defaults):
                rows = tuple(row for row in self._defaults if row.fact == name)
                if name != fact and any(read == fact or read in affected for row in rows for read in row.box):
                    affected[name] = rows
            rejections = (row.box for row in self._rejections)
            moved = {fact, *affected}
            self._effects[fact] = _Effects(
                defaults=affected, rejections=tuple(box for box in rejections if not moved.isdisjoint(box))
            )
        return self._effects[fact]


def _is_uneven(inputs: Inputs) -> bool:
    """Return whether the batch is not a multiple of the GPUs: accepted, but no answer suggests it."""
    batch_size = inputs.get("batch_size")
    return batch_size is not None and batch_size % inputs.get("gpus") != 0


class _Overlay:
    """Facts of a situation with changes, for conditions."""

    def __init__(self, situation: Situation, changes: dict[str, InputValue]) -> None:
        self._situation = situation
        self.changes = changes

    def get(self, fact: str) -> Any:
        return self.changes[fact] if fact in self.changes else getattr(self._situation, fact)
