"""Why another optimizer is not the answer, and the smallest changes after which it would be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer, decide
from optadvise.advice.memory_pressure import find_largest_sizes, find_required_bytes
from optadvise.advice.probes import find_equivalent_ranges, is_changeable
from optadvise.core.errors import InputError
from optadvise.core.records import Situation
from optadvise.rule_analysis.describe import size
from optadvise.rule_analysis.rule_tests import rows
from optadvise.rulebase.near_misses import NearMiss, missed, near_misses

_EFFORT = {"free": 1, "cheap": 2, "costly": 5, "fixed": 20}  # to change a fact, as rules/facts.yaml says
_MOST_FACTS = 3  # changed at once; more is another run
_MOST_TOLD = 3
_MIB = 2**20
_SOLVED = ("vram_bytes", "params")  # memory pressure cuts these, not a table


class Change(Struct, frozen=True):
    """Facts to change together, after which the optimizer is the answer."""

    facts: Mapping[str, str]  # each with the values that will do, as a condition
    answers: Mapping[str, Any]  # all that has to be said then
    effort: int


class Decision(Struct, frozen=True):
    """A row that decided, and those that came nearest to it."""

    table: str
    rule: str
    near: tuple[NearMiss, ...]


def decisions(advisor: CompiledRules, situation: Situation) -> tuple[Decision, ...]:
    """Return, for each table of the chain, the row that decided and its nearest losers.

    Args:
        advisor: The rules.
        situation: A complete situation.
    """
    cells = decide(advisor, situation).cells
    return tuple(
        Decision(
            name, advisor.tables[name].winner(cells).id, tuple(near_misses(advisor.tables[name], cells, advisor.axes))
        )
        for name in ("concern", "choose_optimizer", "choose_schedule")
    )


class WhyNot(Struct, frozen=True):
    """What keeps an optimizer from being the answer."""

    optimizer: str
    answer: str  # what is taken instead
    refused: str | None  # the rules refuse it together with what was said
    fits: bool | None  # would training with it fit?
    rows: tuple[NearMiss, ...]  # rows that name it, the nearest first
    concerns: Mapping[str, NearMiss]  # for each concern that such rows ask for, what keeps it from deciding
    beside: str | None  # why the rule that decides names it as an alternative
    changes: tuple[Change, ...]  # the smallest, the easiest first


def why_not(advisor: CompiledRules, said: Mapping[str, Any], optimizer: str) -> WhyNot:
    """Return what keeps an optimizer from being the answer.

    Args:
        advisor: The rules.
        said: The facts that were stated.
        optimizer: Its canonical id.
    """
    situation = complete_situation(advisor, said)
    decision = decide(advisor, situation)
    cells, taken, choice = decision.cells, decision.optimizer, decision.rules.optimizer
    naming = [rule for rule in rows(advisor.tables["choose_optimizer"]) if rule.choice.chosen == optimizer]
    near = sorted((missed(rule, cells, advisor.axes, choice) for rule in naming), key=lambda miss: len(miss.missed))
    fits = None
    if situation.params is not None and situation.vram_bytes is not None:
        fits = advisor.sizing.fits(advisor.sizing.placed(situation, optimizer), optimizer)
    changes = () if taken.id == optimizer else tuple(_changes(advisor, said, optimizer))[:_MOST_TOLD]
    return WhyNot(
        optimizer=optimizer,
        answer=taken.id,
        refused=_refusal(advisor, said, optimizer),
        fits=fits,
        rows=tuple(near[:_MOST_TOLD]),
        concerns=_concerns(advisor, cells, near[:_MOST_TOLD], decision.rules.concern.id),
        beside=choice.choice.alternatives.get(optimizer),
        changes=changes,
    )


def _refusal(advisor: CompiledRules, said: Mapping[str, Any], optimizer: str) -> str | None:
    try:
        complete_situation(advisor, {**said, "optimizer": optimizer})
    except InputError as error:
        return str(error)
    return None


def _concerns(
    advisor: CompiledRules, cells: Mapping[str, int], near: Sequence[NearMiss], current: str
) -> dict[str, NearMiss]:
    """Say of each concern that the rows ask for what it would take."""
    table, axis = advisor.tables["concern"], advisor.axes["concern"]
    winner = next(rule for rule in rows(table) if rule.id == current)
    wanted = {
        (axis.words or ())[cell]
        for miss in near for name, mask, _ in miss.missed if name == "concern"
        for cell in range(axis.unknown) if mask >> cell & 1
    }  # fmt: skip
    found: dict[str, NearMiss] = {}
    for rule in rows(table):
        word = rule.derived["concern"]
        if word in wanted:
            miss = missed(rule, cells, advisor.axes, winner)
            if word not in found or len(miss.missed) < len(found[word].missed):
                found[word] = miss
    return found


# -- the smallest changes --------------------------------------------------------------------------------------------


class _Try(Struct, frozen=True):
    """A value to try, and the condition that tells it."""

    value: Any
    words: str


def _changes(advisor: CompiledRules, said: Mapping[str, Any], optimizer: str) -> Iterator[Change]:
    """Yield the changes of the fewest facts that lead to an optimizer, the easiest first; each was tried."""
    situation = complete_situation(advisor, said)
    facts = list(_changeable(advisor, situation))
    for count in range(1, _MOST_FACTS + 1):
        found: list[Change] = []
        for names in combinations(facts, count):
            effort = sum(_EFFORT[advisor.catalog.facts[name].change] for name in names)
            sides = set()  # of an edge that is solved for, only the nearest is told
            for words, answers in _tried(advisor, said, names, optimizer):
                side = tuple((n, w.split(" ", 2)[0] if n in _SOLVED else w) for n, w in words.items())
                if side not in sides:
                    sides.add(side)
                    found.append(Change(words, answers, effort))
        if found:
            yield from sorted(found, key=lambda change: change.effort)
            return


def _changeable(advisor: CompiledRules, situation: Situation) -> Iterator[str]:
    """Yield the facts that may change the answer and that a person can change, or has not said."""
    for name, fact in advisor.catalog.facts.items():
        decides = name in advisor.deciding_facts or name in _SOLVED
        if decides and fact.flag is not None and is_changeable(advisor, name, situation):
            yield name


def _tried(
    advisor: CompiledRules, said: Mapping[str, Any], names: Sequence[str], optimizer: str
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Yield what values of some facts lead to an optimizer; values of one stretch count once."""
    solved = [name for name in names if name in _SOLVED]
    others = [name for name in names if name not in solved]
    here = complete_situation(advisor, said)
    for values in product(*(list(_values(advisor, here, name)) for name in others)):
        answers = {**said, **{name: tried.value for name, tried in zip(others, values, strict=True)}}
        words = {name: tried.words for name, tried in zip(others, values, strict=True)}
        for room in product(*(list(_limits(advisor, answers, name)) for name in solved)):
            full = {**answers, **{name: tried.value for name, tried in zip(solved, room, strict=True)}}
            try:
                situation = complete_situation(advisor, full)
            except InputError:
                continue
            if choose_optimizer(advisor, situation) == optimizer:
                yield {**words, **{name: tried.words for name, tried in zip(solved, room, strict=True)}}, full


def _values(advisor: CompiledRules, situation: Situation, name: str) -> Iterator[_Try]:
    """Yield a value of every stretch of a fact that the deciding tables tell apart, but for the present one."""
    axis, value = advisor.axes[name], getattr(situation, name)
    here = axis.cell(value)
    if axis.words is not None:
        flag = axis.words == ("true", "false")
        for cell, word in enumerate(axis.words):
            if cell != here:
                yield _Try(word == "true" if flag else word, word)
        return
    for cells in find_equivalent_ranges(advisor, name):
        if here in cells:
            continue
        first, last = cells[0], cells[-1]
        above = first > here or (here == axis.unknown and axis.bounds(last)[1] == float("inf"))
        left, right = axis.bounds(first if above else last)
        edge = left if left == right else left + 1 if above else right - 1
        yield _Try(max(1, int(edge)), axis.lower(first) if above else axis.upper(last))


def _limits(advisor: CompiledRules, answers: Mapping[str, Any], name: str) -> Iterator[_Try]:
    """Yield the sizes or memories at which pressure changes, given what else would be said, the nearest first."""
    try:
        situation = complete_situation(advisor, answers)
    except InputError:
        return
    here = getattr(situation, name)
    if name == "vram_bytes":
        # To the next whole MiB, as nobody types bytes: the least that is enough.
        edges, shown = sorted({-(-need // _MIB) * _MIB for need in find_required_bytes(advisor, situation)}), size
        if here is None and not edges:
            yield _Try(24 * 2**30, "any limit")
    else:
        cuts = [int(cut) for cut in advisor.axes[name].cuts]
        edges, shown = (
            sorted({*cuts, *(most + 1 for most in find_largest_sizes(advisor, situation) if most > 0)}),
            "{:,}".format,
        )
    for edge in sorted(edges, key=lambda edge: abs(edge - (here or 0))):
        if here is None or edge > here:
            yield _Try(edge, f"at least {shown(edge)}")
        less = edge - (_MIB if name == "vram_bytes" else 1)
        if less > 0 and (here is None or edge <= here):
            yield _Try(less, f"under {shown(edge)}" if name == "params" else f"at most {shown(less)}")
