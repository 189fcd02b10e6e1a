"""Will it fit, with which optimizer, in how large passes, and what is the cheapest change where it will not?

Chains of changes are tried in the order of what they cost (`rules/fixes.yaml`); each is put to the advisor as a person
would type it, so that what is assumed follows. A chain that is told has no shorter one inside it that fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from optadvise.advice.advisor import Advisor
from optadvise.core.errors import InputError
from optadvise.core.records import AGREES, SITUATION_DEFAULTS, Fit, Fix, MemoryAnswer, MemoryEstimate, Situation
from optadvise.memory.estimator import divisors
from optadvise.memory.scaling import scaling

_MOST_STEPS = 4  # of a chain; longer ones are no advice
_MOST_BESIDE_GPUS = 2  # steps of a chain that takes more GPUs as well
_DOUBLINGS = 9  # of the number of GPUs
_EFFORT_OF_DOUBLING = 4
_EFFORT_OF_OVERRULING = 10  # what was said is changed last


class _Change(Struct, frozen=True):
    """One change that may help."""

    rule: str
    when: tuple[tuple[str, int], ...]
    change: Mapping[str, Any]
    effort: int
    costs: str
    cite: tuple[str, ...]


class _Tried(Struct, frozen=True):
    """A chain put to the advisor."""

    effort: int
    changes: tuple[Mapping[str, Any], ...]  # what each step sets
    situation: Situation  # placed


class Fitter:
    """Answers for a compiled set of rules.

    Example:
        >>> from optadvise.rulebase.catalog import load
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
        self._assumable = {row["fact"] for row in advisor.catalog.documents["assume"]}

    def answer(self, situation: Situation, *, ranked: bool = True) -> MemoryAnswer:
        """Return the memory of a run, of every optimizer in its place, and what would make it fit.

        Args:
            situation: A complete situation; its `optimizer`, or the one that most would take.
            ranked: Work out every other optimizer too.
        """
        optimizer = situation.optimizer or self._advisor.limits[0]
        if situation.optimizer is None:
            situation = replace(situation, optimizer=optimizer, assumed=(*situation.assumed, "optimizer"))
        placed = self._sizing.placed(situation, optimizer)
        memory = self._sizing.estimate(placed, optimizer)
        return MemoryAnswer(
            situation=placed,
            optimizer=optimizer,
            memory=memory,
            largest_pass=self._sizing.largest_pass(placed, optimizer),
            longest=self._sizing.longest(placed, optimizer),
            optimizers=tuple(self.ranking(placed)) if ranked else (),
            fixes=tuple(self.fixes(placed, memory)),
            traffic=self._sizing.traffic(placed),
            scaling=scaling(self._sizing, placed, optimizer) if ranked else None,
            passes=self._passes(placed, optimizer) if ranked and placed.vram_bytes is None else {},
        )

    def _passes(self, situation: Situation, optimizer: str) -> dict[str, int]:
        """Return the largest pass by the usual GPUs; none where activations are not known."""
        if not self._sizing.knows_activations(situation):
            return {}
        usual = sorted((gpu for gpu in self._advisor.catalog.gpus if gpu.usual), key=lambda gpu: gpu.memory_gib)
        limited = {gpu.id: replace(situation, vram_bytes=gpu.memory_bytes) for gpu in usual}
        return {name: self._sizing.largest_pass(run, optimizer) or 0 for name, run in limited.items()}

    def ranking(self, situation: Situation) -> Iterator[Fit]:
        """Return every optimizer in the run's place, the least memory first."""
        found = []
        stated, contradiction = self._stated(situation), self._advisor.completer.contradiction
        for name in self._advisor.catalog.optimizer_ids:
            if contradiction({**stated, "optimizer": name}) is not None:
                continue
            breaks = not self._survives(name, situation)
            if situation.vram_bytes is None:
                found.append(replace(self._sizing.unlimited(situation, name), breaks=breaks))
                continue
            memory = self._sizing.estimate(situation, name)
            most = self._sizing.largest_pass(situation, name)
            longest = self._sizing.longest(situation, name)
            fit = Fit(name, memory.optimizer, memory.total, memory.known, memory.fits, most, longest)
            found.append(replace(fit, breaks=breaks))
        return iter(sorted(found, key=lambda fit: (fit.total or fit.known or 0, fit.id)))

    def refused(self, situation: Situation) -> bool:
        """Do the rules refuse the situation's optimizer together with what was said?"""
        answers = {**self._stated(situation), "optimizer": situation.optimizer}
        return self._advisor.completer.contradiction(answers) is not None

    # -- what would make it fit ------------------------------------------------------------------------------------

    def fixes(self, situation: Situation, memory: MemoryEstimate) -> Iterator[tuple[Fix, ...]]:
        """Return the cheapest chains of changes after which the run is expected to fit; none where it fits already.

        One for each thing that may be had in the end: all weights on as many GPUs, adapters, or more GPUs.
        """
        if situation.vram_bytes is None or memory.known is None:
            return
        if memory.fits is not False and self._fits(situation):
            return
        usable = [change for change in self._changes if self._applies(situation, change)]
        alone = sorted(_chains([c for c in usable if "gpus" not in c.change], _MOST_STEPS), key=self._order(situation))
        fitting: list[frozenset[str]] = []
        best: dict[str, tuple[tuple[_Change, ...], _Tried]] = {}
        for chain in alone:
            names = frozenset(change.rule for change in chain)
            if any(shorter < names for shorter in fitting):
                continue
            tried = self._tried(situation, chain)
            if tried is not None and self._helps(situation, tried.situation):
                fitting.append(names)
                best.setdefault(tried.situation.method, (chain, tried))
        told = list(best.values())
        more = self._with_gpus(situation, usable, fitting)
        told += [more] if more is not None else []
        for chain, tried in sorted(told, key=lambda pair: pair[1].effort):
            yield tuple(self._told(situation, chain, tried))

    def _with_gpus(
        self, situation: Situation, usable: Sequence[_Change], fitting: Sequence[frozenset[str]]
    ) -> tuple[tuple[_Change, ...], _Tried] | None:
        """Return the cheapest chain that takes more GPUs, each doubling of which counts."""
        best: tuple[tuple[_Change, ...], _Tried] | None = None
        growing = [self._sound(situation, change) for change in usable if "gpus" in change.change]
        beside = [c for c in usable if "gpus" not in c.change and "method" not in c.change]
        for change in growing:
            for others in [(), *_chains(beside, _MOST_BESIDE_GPUS)]:
                if any(shorter <= frozenset(c.rule for c in others) for shorter in fitting):
                    continue
                for doublings in range(1, _DOUBLINGS + 1):
                    gpus = situation.gpus * 2**doublings
                    tried = self._tried(situation, (*others, change), gpus)
                    if tried is None or (best is not None and tried.effort >= best[1].effort):
                        break
                    if self._helps(situation, tried.situation):
                        best = (*others, change), tried
                        break
        return best

    def _fits(self, situation: Situation) -> bool:
        return self._sizing.fits(situation, situation.optimizer or "")

    def _sound(self, situation: Situation, change: _Change) -> _Change:
        """Return a change to more GPUs, with the usual optimizer where the run's own would break on them."""
        after = replace(situation, gpus=2 * situation.gpus, shard=change.change.get("shard", situation.shard))
        usual = self._advisor.limits[0]
        if self._survives(situation.optimizer or "", after) or not self._survives(usual, after):
            return change
        return replace(change, change={**change.change, "optimizer": usual})

    def _helps(self, before: Situation, after: Situation) -> bool:
        """Does a run fit after changes, without an optimizer that breaks where it is sharded then?"""
        same = (after.optimizer, after.sharding) == (before.optimizer, before.sharding)  # then it was asked for so
        return (same or self._survives(after.optimizer or "", after)) and self._fits(after)

    def _survives(self, optimizer: str, situation: Situation) -> bool:
        """Is nothing known to go wrong with an optimizer where a run is sharded?"""
        made = self._advisor.catalog.optimizer(optimizer).implementations[0]
        return made.sharding.get(situation.sharding or "", AGREES) == AGREES

    def _applies(self, situation: Situation, change: _Change) -> bool:
        axes = self._advisor.axes
        if "micro_batch" in change.change and (
            "micro_batch" in situation.assumed or situation.micro_batch in (None, 1)
        ):
            return False  # passes are as large as fit already
        return all(on >> axes[name].cell(getattr(situation, name)) & 1 for name, on in change.when)

    def _stated(self, situation: Situation) -> dict[str, Any]:
        """Return the answers that were given, as a person gave them."""
        usual = SITUATION_DEFAULTS
        return {
            name: value
            for name, value in asdict(situation).items()
            if name not in ("assumed", *situation.assumed) and value is not None
            and (value != usual[name] or name in self._assumable)
        }  # fmt: skip

    def _order(self, situation: Situation) -> Any:
        def order(chain: Sequence[_Change]) -> tuple[int, int]:
            return self._effort(situation, chain), len(chain)

        return order

    def _effort(self, situation: Situation, chain: Sequence[_Change]) -> int:
        return sum(
            change.effort + _EFFORT_OF_OVERRULING * bool(self._overruled(situation, change.change)) for change in chain
        )

    def _overruled(self, situation: Situation, change: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was said and is no longer so; smaller passes and more GPUs are what they say."""
        stated = self._stated(situation)
        return {
            name: stated[name]
            for name, value in change.items()
            if name in stated and stated[name] != value and name not in ("micro_batch", "gpus")
        }

    def _tried(self, situation: Situation, chain: Sequence[_Change], gpus: int = 0) -> _Tried | None:
        """Return a chain as the advisor takes it, None where it refuses it."""
        sets = [dict(change.change) for change in chain]
        effort = self._effort(situation, chain)
        smaller = None
        answers = {**self._stated(situation), "optimizer": situation.optimizer}
        for values in sets:
            if "gpus" in values:
                values["gpus"] = gpus
                effort += _EFFORT_OF_DOUBLING * (gpus // situation.gpus).bit_length()
                share = self._share(answers, gpus)
                if share is not None and share < answers["micro_batch"]:
                    values["micro_batch"] = share
            elif "micro_batch" in values:
                smaller = values
                continue
            answers.update(values)
        if smaller is not None:
            answers.setdefault("batch_size", answers["micro_batch"] * situation.gpus)
            return self._with_passes(answers, smaller, sets, effort)
        after = self._put(answers)
        return None if after is None else _Tried(effort, tuple(sets), after)

    @staticmethod
    def _share(answers: Mapping[str, Any], gpus: int) -> int | None:
        """Return the samples of a pass that each of more GPUs can take of a batch; None where nothing binds them."""
        batch, micro = answers.get("batch_size"), answers.get("micro_batch")
        if batch is None or micro is None or batch % gpus:
            return None
        return max(n for n in divisors(batch // gpus) if n <= micro)

    def _with_passes(
        self, answers: dict[str, Any], values: dict[str, Any], sets: list[dict[str, Any]], effort: int
    ) -> _Tried | None:
        """Take the largest smaller passes that fit, and keep the batch by accumulating them."""
        micro, gpus = answers["micro_batch"], answers.get("gpus", 1)
        last = None
        shares = divisors(answers["batch_size"] // gpus) if answers["batch_size"] % gpus == 0 else []
        for count in sorted((n for n in shares if n < micro), reverse=True):
            last = self._put({**answers, "micro_batch": count})
            if last is None:
                return None
            values.update(micro_batch=count, batch_size=answers["batch_size"])
            if self._fits(last):
                break
        return None if last is None else _Tried(effort, tuple(sets), last)

    def _put(self, answers: Mapping[str, Any]) -> Situation | None:
        try:
            found = self._advisor.situation(
                {k: v for k, v in answers.items() if k != "params" or "shape" not in answers}
            )
        except InputError:
            return None
        return self._sizing.placed(found, found.optimizer or "")

    def _told(self, start: Situation, chain: Sequence[_Change], tried: _Tried) -> Iterator[Fix]:
        """Say of each step what the chain would need without it, and what it costs."""
        last = tried.situation
        needs = self._needs(last)
        pages = self._sizing.estimate(last, last.optimizer or "").pages
        for index, (change, sets) in enumerate(zip(chain, tried.changes, strict=True)):
            fewer = self._tried(start, [*chain[:index], *chain[index + 1 :]], last.gpus)
            without = self._needs(start if fewer is None else fewer.situation)
            instead = self._overruled(start, sets)
            yield Fix(change.rule, sets, without - needs, needs, pages, instead, change.costs, change.cite)

    def _needs(self, situation: Situation) -> int:
        return self._sizing.demand(situation, situation.optimizer or "") or 0


def _chains(changes: Sequence[_Change], most: int) -> list[tuple[_Change, ...]]:
    """Return the combinations that set nothing twice."""
    return [
        chain
        for length in range(1, most + 1)
        for chain in combinations(changes, length)
        if len({name for change in chain for name in change.change}) == sum(len(change.change) for change in chain)
    ]
