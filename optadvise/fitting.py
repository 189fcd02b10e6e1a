"""Will it fit, with which optimizer, in how large passes, and what is the cheapest change where it will not?

Chains of changes are tried in the order of what they cost (`rules/fixes.yaml`), so that the first that fits is the
cheapest: without any one of its steps the run is not expected to fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from optadvise.advisor import Advisor
from optadvise.domain import Fit, Fix, MemoryAnswer, MemoryEstimate, Situation

_MOST_STEPS = 4  # of a chain; longer ones are no advice
_MOST_GPUS = 1024


class _Change(NamedTuple):
    """One change that may help."""

    rule: str
    when: tuple[tuple[str, int], ...]
    change: Mapping[str, Any]
    effort: int
    costs: str
    cite: tuple[str, ...]


class Fitter:
    """Answers for a compiled set of rules.

    Example:
        >>> from optadvise.catalog import load
        >>> advisor = Advisor(load())
        >>> situation = advisor.situation({"params": 7 * 10**9, "vram_bytes": 24 * 2**30})
        >>> Fitter(advisor).answer(situation).memory.fits
        False
    """

    def __init__(self, advisor: Advisor) -> None:
        """Compile the changes."""
        self._advisor = advisor
        self._sizing = advisor.sizing
        self._changes = [
            _Change(
                row["id"], tuple((name, advisor.axes[name].accepted(on)) for name, on in row["when"].items()),
                row["change"], row["effort"], row["costs"], tuple(row["cite"]),
            )
            for row in advisor.catalog.documents["fixes"]
        ]  # fmt: skip

    def answer(self, situation: Situation, *, ranked: bool = True) -> MemoryAnswer:
        """Return the memory of a run, of every optimizer in its place, and what would make it fit.

        Args:
            situation: A complete situation; its `optimizer`, or the one that most would take.
            ranked: Work out every other optimizer too.
        """
        optimizer = situation.optimizer or self._advisor.limits[0]
        if situation.optimizer is None:
            situation = situation._replace(optimizer=optimizer, assumed=(*situation.assumed, "optimizer"))
        placed = self._sizing.placed(situation, optimizer)
        memory = self._sizing.estimate(placed, optimizer)
        ranking = tuple(self.ranking(placed)) if ranked else ()
        return MemoryAnswer(
            situation=placed,
            optimizer=optimizer,
            memory=memory,
            largest_pass=self._sizing.largest_pass(placed, optimizer),
            longest=self._sizing.longest(placed, optimizer),
            optimizers=ranking,
            fixes=tuple(self.fixes(placed, optimizer, memory)),
        )

    def ranking(self, situation: Situation) -> Iterator[Fit]:
        """Return every optimizer in the run's place, the least memory first."""
        found = []
        for name in self._advisor.catalog.optimizer_ids:
            if self.refused(situation._replace(optimizer=name)):
                continue
            memory = self._sizing.estimate(situation, name)
            most = self._sizing.largest_pass(situation, name)
            found.append(Fit(name, memory.optimizer, memory.total, memory.known, memory.fits, most,
                             self._sizing.longest(situation, name)))  # fmt: skip
        return iter(sorted(found, key=lambda fit: (fit.total or fit.known or 0, fit.id)))

    def fixes(self, situation: Situation, optimizer: str, memory: MemoryEstimate) -> Iterator[tuple[Fix, ...]]:
        """Return the cheapest chains of changes after which the run is expected to fit; none where it fits already.

        One for each thing that may be had in the end: all weights on as many GPUs, adapters, or more GPUs.
        """
        if situation.vram_bytes is None or situation.params is None or memory.known is None:
            return
        if memory.fits is not False and self._sizing.fits(situation, optimizer):
            return
        start = situation._replace(optimizer=optimizer)
        usable = [change for change in self._changes if self._applies(start, change)]
        found: set[tuple[str, bool]] = set()
        told: list[frozenset[str]] = []
        for chain in _chains(usable):
            changed = {name: value for change in chain for name, value in change.change.items()}
            ends = (changed.get("method", start.method), "gpus" in changed)
            names = frozenset(change.rule for change in chain)
            if ends in found or (ends[1] and ends[0] != start.method) or any(names > fewer for fewer in told):
                continue
            after = self._after(start, chain)
            if after is not None:
                found.add(ends)
                told.append(names)
                yield tuple(self._told(start, chain, after))

    def _applies(self, situation: Situation, change: _Change) -> bool:
        axes = self._advisor.axes
        return all(on >> axes[name].cell(getattr(situation, name)) & 1 for name, on in change.when)

    def refused(self, situation: Situation) -> bool:
        """Do the rules refuse the situation's optimizer together with what was said?"""
        stated = {name: value for name, value in situation._asdict().items() if name not in situation.assumed}
        return self._advisor.completer.contradiction({**stated, "optimizer": situation.optimizer}) is not None

    def _after(self, situation: Situation, chain: Sequence[_Change]) -> list[Situation] | None:
        """Return the situation after each step, None where the last is not expected to fit."""
        steps = [situation]
        for change in chain:
            if not self._applies(steps[-1], change):
                return None
            after = self._changed(steps[-1], change)
            if after is None or self.refused(after):
                return None
            steps.append(after)
        last = steps[-1]
        return steps if self._sizing.fits(last, last.optimizer or "") else None

    def _changed(self, situation: Situation, change: _Change) -> Situation | None:
        values = dict(change.change)
        if values.get("micro_batch") == "least":
            if situation.micro_batch in (None, 1):
                return None
            values["micro_batch"] = 1
        if "method" in values:
            rank = self._advisor.completer.fill({"method": values["method"]}).get("lora_rank")
            values.update(lora_rank=situation.lora_rank or rank, optimizer=situation.optimizer)
        if values.get("gpus") != "more":
            return situation._replace(**values)
        gpus = max(2, 2 * situation.gpus)
        while gpus <= _MOST_GPUS:
            batch, micro = situation.batch_size, situation.micro_batch
            if batch is not None and micro is not None:  # a batch stays what it is, so each GPU gets less of it
                micro = min(micro, batch // gpus)
            if micro == 0:
                return None
            more = situation._replace(**{**values, "gpus": gpus, "micro_batch": micro})
            if self._sizing.fits(more, more.optimizer or ""):
                return more
            gpus *= 2
        return None

    def _told(self, start: Situation, chain: Sequence[_Change], steps: Sequence[Situation]) -> Iterator[Fix]:
        before = self._sizing.demand(start, start.optimizer or "") or 0
        for change, after in zip(chain, steps[1:], strict=True):
            needs = self._sizing.demand(after, after.optimizer or "") or 0
            told = {name: getattr(after, name) for name in change.change}
            yield Fix(change.rule, told, before - needs, needs, change.costs, change.cite)
            before = needs


def _chains(changes: Sequence[_Change]) -> list[tuple[_Change, ...]]:
    """Return the combinations that set nothing twice, by what they cost, the shorter first."""
    found = [
        chain
        for length in range(1, _MOST_STEPS + 1)
        for chain in combinations(changes, length)
        if len({name for change in chain for name in change.change}) == sum(len(change.change) for change in chain)
    ]
    return sorted(found, key=lambda chain: (sum(change.effort for change in chain), len(chain)))
