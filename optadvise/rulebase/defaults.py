"""From what a person said to a complete situation: what is assumed, and what cannot be meant together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from optadvise.core.errors import InputError
from optadvise.core.records import SITUATION_DEFAULTS, Situation
from optadvise.rulebase.records import Assumption, Condition, Contradiction, Fact
from optadvise.rulebase.tables import Axis

# Facts that may stay unknown; the rest are assumed where nobody said.
_MAY_BE_UNKNOWN = ("model", "params", "vram_bytes", "batch_size")


_Masks: TypeAlias = tuple[tuple[str, int], ...]  # conditions on facts, as accepted cells


class Answers(Protocol):
    """Anything that conditions can look a fact up in."""

    def get(self, name: str, /) -> Any:
        """Return a fact's value, None where it is not known."""


class Completer:
    """The assumptions and contradictions of the rules, compiled."""

    def __init__(self, assume: Sequence[Assumption], contradictions: Sequence[Contradiction],
                 facts: Mapping[str, Fact], axes: Mapping[str, Axis]) -> None:  # fmt: skip
        """Compile.

        Args:
            assume: Rows of `rules/assume.yaml`; the first that applies to a fact counts.
            contradictions: What is refused.
            facts: The declared facts, for the flags' names.
            axes: Every fact's axis.
        """
        self._axes = axes
        from_gpu = {name: "--gpu" for name, fact in facts.items() if fact.derived == "gpu"}
        self._flags = {name: fact.flag or f"--{name}" for name, fact in facts.items()} | from_gpu
        self._assume = [(row.fact, row.value, self._mask(row.when)) for row in assume]
        self._contradictions = [(self._mask(row.when), row) for row in contradictions]
        self._assumable = frozenset(name for name, _, _ in self._assume)
        # Facts whose answer other assumptions hang on.
        self.triggers = frozenset(name for _, _, masks in self._assume for name, _ in masks)
        conditions = [masks for _, _, masks in self._assume] + [masks for masks, _ in self._contradictions]
        self.reads = frozenset(name for masks in conditions for name, _ in masks)
        self._moves: dict[str, tuple[Any, tuple[_Masks, ...]]] = {}  # of the facts that were asked for

    def _mask(self, when: Mapping[str, Condition]) -> _Masks:
        return tuple((name, self._axes[name].accepted(condition)) for name, condition in when.items())

    def _followers(self, name: str) -> tuple[tuple[str, list[tuple[Any, _Masks]]], ...]:
        """Return the assumptions that may change with a fact, directly or through one another."""
        moved, followers = {name}, []
        for fact in dict.fromkeys(fact for fact, _, _ in self._assume):
            rows = [(value, masks) for f, value, masks in self._assume if f == fact]
            if fact != name and any(condition in moved for _, masks in rows for condition, _ in masks):
                moved.add(fact)
                followers.append((fact, rows))
        return tuple(followers)

    def _watched(self, name: str) -> tuple[_Masks, ...]:
        """Return the contradictions that a change of a fact, or of what follows from it, may run into."""
        moved = {name, *(fact for fact, _ in self._followers(name))}
        return tuple(masks for masks, row in self._contradictions if not moved.isdisjoint(row.when))

    def _applies(self, masks: _Masks, answers: Answers) -> bool:
        for name, mask in masks:  # noqa: SIM110, a generator costs a third more, and this is the innermost loop
            if not mask >> self._axes[name].cell(answers.get(name)) & 1:
                return False
        return True

    def fill(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answers with every assumption added."""
        filled = dict(answers)
        for name, value, masks in self._assume:
            if name not in filled and (not masks or self._applies(masks, filled)):
                filled[name] = value
        return filled

    def contradiction(self, filled: Mapping[str, Any]) -> Contradiction | None:
        """Return the first contradiction that a filled situation runs into."""
        for masks, row in self._contradictions:
            if self._applies(masks, filled):
                return row
        return None

    def follow(self, situation: Situation, name: str, value: Any) -> dict[str, Any] | None:
        """Return what a change of one answer changes in all, with the assumptions that hang on it.

        Args:
            situation: The situation before.
            name: The fact that is changed.
            value: Its new value.

        Returns:
            The facts that differ afterwards, or None where the change contradicts something that was said.
        """
        changed: dict[str, Any] = {name: value}
        if name not in self._moves:
            self._moves[name] = self._followers(name), self._watched(name)
        followers, watched = self._moves[name]
        if not followers and not watched:
            return changed
        # What the arithmetic filled in follows from the rest and contradicts nothing.
        filled = dict.fromkeys(fact for fact in situation.assumed if fact not in self._assumable)
        after = _Overlay(situation, {**filled, **changed}) if filled else _Overlay(situation, changed)
        for fact, rows in followers:
            if fact in situation.assumed:
                held = getattr(situation, fact)
                usual = SITUATION_DEFAULTS[fact]  # where nothing is assumed any more
                new = next((v for v, masks in rows if self._applies(masks, after)), usual)
                if new != held:
                    changed[fact] = after.changed[fact] = new
        batch, gpus = after.get("batch_size"), after.get("gpus")
        if batch is not None and batch % gpus:
            return None
        return None if any(self._applies(masks, after) for masks in watched) else changed

    def complete(self, answers: Mapping[str, Any]) -> Situation:
        """Return the situation that the answers describe.

        Args:
            answers: Facts by their names, only those that were stated.

        Raises:
            InputError: Two answers contradict each other.
        """
        filled = self.fill(answers)
        contradiction = self.contradiction(filled)
        if contradiction is not None:
            options = " ".join(self._said(name, filled) for name in contradiction.when if filled.get(name) is not None)
            raise InputError(f"{options}: {contradiction.say}; {contradiction.instead}")
        micro, batch, gpus = filled.get("micro_batch"), filled.get("batch_size"), filled["gpus"]
        if batch is not None and batch % gpus:
            raise InputError(
                f"--batch-size {batch} --gpus {gpus}: GPUs take equal shares of a batch; say a multiple of {gpus}"
            )
        if micro is not None and filled.get("gradient_release") and (batch or 1) > micro * gpus:
            raise InputError(
                f"--gradient-release --batch-size {batch} --micro-batch {micro}: gradients that are let go cannot add "
                "up over passes; leave one of them out"
            )
        if micro is not None and batch is not None and batch % (micro * gpus):
            per_pass = f"{micro} × {gpus} GPU{'s' if gpus > 1 else ''}"
            raise InputError(
                f"--batch-size {batch}: must be a multiple of --micro-batch {per_pass} = {micro * gpus}, "
                "as it counts all GPUs and accumulation"
            )
        unknown = [name for name in _MAY_BE_UNKNOWN if name not in filled]
        assumed = [name for name in filled if name not in answers]
        stated = tuple(name for name, value in answers.items() if value is not None)
        return Situation(**filled, stated=stated, defaults=(*unknown, *assumed))

    def _said(self, name: str, filled: Mapping[str, Any]) -> str:
        value = filled[name]
        return self._flags[name] if value is True else f"{self._flags[name]} {value}"


class _Overlay:
    """A situation's facts with some changed, as the mapping that conditions read."""

    def __init__(self, situation: Situation, changed: dict[str, Any]) -> None:
        self._situation = situation
        self.changed = changed

    def get(self, name: str) -> Any:
        return self.changed[name] if name in self.changed else getattr(self._situation, name)
