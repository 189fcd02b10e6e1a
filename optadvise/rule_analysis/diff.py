"""What two sets of rules answer differently: the exact situations, merged into boxes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules, list_conditions
from optadvise.core.cards import Gpu
from optadvise.core.errors import InputError
from optadvise.rule_analysis import describe
from optadvise.rule_analysis.reachability import Chain
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Assumption, Contradiction, FixRule, Rule
from optadvise.rulebase.regions import Box, TooLargeError, box_of, boxes, columns, merged
from optadvise.rulebase.tables import Table


class Change(Struct, frozen=True):
    """Situations that are answered differently."""

    where: str  # the situations in words
    old: str
    new: str
    witness: str | None  # a command line that shows it; None where it is only seen with an optimizer asked for


class Section(Struct, frozen=True):
    """The changes of one kind of answer."""

    title: str
    changes: tuple[Change, ...]


class Difference(Struct, frozen=True):
    """Everything that two sets of rules answer differently."""

    sections: tuple[Section, ...]
    cards: tuple[str, ...]  # cards that were added, removed or changed, in words

    @property
    def same(self) -> bool:
        """Do both answer alike everywhere?"""
        return not self.sections and not self.cards


_OPTIMIZER = ("concern", "choose_optimizer")
_NOBODY = "no row"
# What is listed beside the tables, and how a change of it is told.


def compare(old: Catalog, new: Catalog) -> Difference:
    """Return what two sets of rules answer differently.

    Args:
        old: The rules before.
        new: The rules after.

    Raises:
        InputError: There are too many different cells to list.
    """
    old, new = _with_optimizers_of(old, new), _with_optimizers_of(new, old)
    before, after = (
        CompiledRules(old, extra_conditions=list_conditions(new)),
        CompiledRules(new, extra_conditions=list_conditions(old)),
    )
    sections = []
    try:
        sections.append(Section("The optimizer", tuple(_optimizer(before, after))))
        for name in dict.fromkeys((*before.tables, *after.tables)):
            if name not in _OPTIMIZER:
                sections.append(_section(before, after, name))
    except TooLargeError:
        raise InputError("the two differ in more places than can be listed; compare smaller steps") from None
    return Difference(tuple(section for section in sections if section.changes), tuple(_cards(old, new)))


def _optimizer(before: CompiledRules, after: CompiledRules) -> Iterator[Change]:
    """Yield where the chain of concern and optimizer ends elsewhere."""
    names = sorted({*before.deciding_facts, *after.deciding_facts})
    sides = [_Side(advisor) for advisor in (before, after)]
    swept = columns(names, lambda name, cell: tuple(side.told_apart(name, cell) for side in sides), after.axes)

    def step(state: tuple[_Alive, _Alive], number: int, cell: int) -> tuple[_Alive, _Alive]:
        return (sides[0].step(state[0], swept[number].name, cell), sides[1].step(state[1], swept[number].name, cell))

    def answer(state: tuple[_Alive, _Alive]) -> Hashable:
        ends = sides[0].end(state[0]), sides[1].end(state[1])
        return None if ends[0] == ends[1] else ends

    found = boxes(swept, (sides[0].start, sides[1].start), step, answer)
    chains = [Chain(advisor) for advisor in (after, before)]
    for ends, parts in found.items():
        assert isinstance(ends, tuple)
        for box in parts:
            change = _change(chains, "concern", box, ends[0], ends[1])
            if change is not None:
                yield change


_Alive = tuple[int, int]  # rows of the concern's table and of the optimizer's that still may apply


class _Side:
    """One set of rules, as a sweep over the deciding facts sees it."""

    def __init__(self, advisor: CompiledRules) -> None:
        self._concern, self._choice = advisor.tables["concern"], advisor.tables["choose_optimizer"]
        self._axis = advisor.axes["concern"]
        self.start: _Alive = ((1 << len(self._concern.rules)) - 1, (1 << len(self._choice.rules)) - 1)

    def told_apart(self, name: str, cell: int) -> Hashable:
        return tuple(t.column(name)[cell] for t in (self._concern, self._choice) if name in t.columns)

    def step(self, alive: _Alive, name: str, cell: int) -> _Alive:
        concern, choice = alive
        if name in self._concern.columns:
            concern &= self._concern.column(name)[cell]
        if name in self._choice.columns:
            choice &= self._choice.column(name)[cell]
        return concern, choice

    def end(self, alive: _Alive) -> str:
        concern = _winner(self._concern, alive[0])
        if concern is None:
            return _NOBODY
        cell = self._axis.cell(concern.derived["concern"])
        rule = _winner(self._choice, alive[1] & self._choice.column("concern")[cell])
        return _NOBODY if rule is None else str(rule.choice.chosen)


def _winner(table: Table, alive: int) -> Rule | None:
    """Return the row that decides among those that apply; None where none does or two contradict each other."""
    found = [i for i in range(len(table.rules)) if alive >> i & 1]
    if not found:
        return table.otherwise
    if table.hit == "first":
        return table.rules[found[0]]
    best = [i for i in found if all(i == j or table.beats[i] >> j & 1 for j in found)]
    return table.rules[best[0]] if best else None


def _section(before: CompiledRules, after: CompiledRules, name: str) -> Section:
    old, new = before.tables.get(name), after.tables.get(name)
    table = new or old
    assert table is not None
    chains = [Chain(after), Chain(before)]
    found: list[Change] = []
    if old is None or new is None:
        found.append(Change("any situation", _NOBODY if old is None else name, _NOBODY if new is None else name, None))
    elif table.hit == "collect":
        found += _collected(old, new, chains)
    else:
        found += _decided(old, new, chains)
    return Section(f"{table.about} ({name})", tuple(found))


def _decided(old: Table, new: Table, chains: list[Chain]) -> Iterator[Change]:
    names = sorted({*old.columns, *new.columns})

    def cells(table: Table, name: str, cell: int) -> int:
        return table.column(name)[cell] if name in table.columns else -1

    swept = columns(names, lambda name, cell: (cells(old, name, cell), cells(new, name, cell)), chains[0].axes)

    def step(state: tuple[int, int], number: int, cell: int) -> tuple[int, int]:
        name = swept[number].name
        return state[0] & cells(old, name, cell), state[1] & cells(new, name, cell)

    def answer(state: tuple[int, int]) -> Hashable:
        a, b = _winner(old, state[0]), _winner(new, state[1])
        if a is None or b is None:
            return None if a is b else (_NOBODY if a is None else _says(a), _NOBODY if b is None else _says(b))
        return None if a.outcome == b.outcome else (_says(a), _says(b))

    start = ((1 << len(old.rules)) - 1, (1 << len(new.rules)) - 1)
    for ends, parts in boxes(swept, start, step, answer).items():
        assert isinstance(ends, tuple)
        for box in parts:
            change = _change(chains, new.id, box, *ends)
            if change is not None:
                yield change


def _says(rule: Rule) -> str:
    """Say what a row gives, with its id."""
    outcome = rule.outcome
    value = outcome.get("scheduler") or outcome.get("optimizer")
    if value is None and "points" in outcome:
        value = f"along {outcome['along']}"
    if value is None:
        value = ", ".join(f"{key} {item}" for key, item in outcome.items() if not isinstance(item, dict))
    return f"{value} [{rule.id}]"


def _collected(old: Table, new: Table, chains: list[Chain]) -> Iterator[Change]:
    axes = chains[0].axes
    olds, news = ({rule.id: rule for rule in table.rules} for table in (old, new))
    for name in dict.fromkeys((*olds, *news)):
        a, b = olds.get(name), news.get(name)
        if a is not None and b is not None and a.outcome != b.outcome:
            yield Change(describe.region(box_of(b, axes), axes), f"{name} as it was", f"{name}, changed", None)
            continue
        box_a, box_b = (None if rule is None else box_of(rule, axes) for rule in (a, b))
        for box, was, now in ((box_b, box_a, True), (box_a, box_b, False)):
            for part in _without(box, was, chains[0]) if box is not None else ():
                change = _change(chains, new.id, part, *((_NOBODY, name) if now else (name, _NOBODY)))
                if change is not None:
                    yield change


def _without(box: Box, other: Box | None, chain: Chain) -> list[dict[str, int]]:
    """Return the parts of a box that lie outside another."""
    if other is None:
        return [dict(box)]
    parts, rest = [], dict(box)
    for name, mask in other.items():
        here = rest.get(name, chain.axes[name].every)
        if here & ~mask:
            parts.append({**rest, name: here & ~mask})
        if not here & mask:
            return [dict(box)]
        rest[name] = here & mask
    return merged(parts)


def _change(chains: list[Chain], table: str, box: Box, old: str, new: str) -> Change | None:
    """Return a change with its witness; None where no situation leads there by either set of rules."""
    for chain in chains:
        point = chain.reading(table, box)
        if point is not None:
            said = describe.answers(chain.advisor, point)
            witness = None if said is None else describe.command(chain.advisor, said)
            return Change(describe.region(box, chain.axes), old, new, witness)
    return None


def _cards(old: Catalog, new: Catalog) -> Iterator[str]:
    for kind, before, after in (
        ("optimizer", old.base.optimizers, new.base.optimizers),
        ("scheduler", old.base.schedulers, new.base.schedulers),
    ):  # fmt: skip
        yield from _changed_cards(kind, before, after)
    for describe_entry, before_rows, after_rows in (
        (_assumption, old.base.assume, new.base.assume),
        (_contradiction, old.base.contradictions, new.base.contradictions),
        (_fix, old.base.fixes, new.base.fixes),
        (_gpu, old.base.gpus, new.base.gpus),
    ):
        yield from _changed_entries(describe_entry, before_rows, after_rows)
    for name in sorted(new.base.disabled.keys() - old.base.disabled.keys()):
        yield f"optimizer {name} is ruled out: {new.base.disabled[name].because}"


def _changed_cards(kind: str, before: Mapping[str, Struct], after: Mapping[str, Struct]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in before:
            yield f"{kind} {name} is new"
        elif name not in after:
            yield f"{kind} {name} is gone"
        else:
            olds, news = _bare(to_builtins(before[name])), _bare(to_builtins(after[name]))
            keys = {key for key in {*olds, *news} if olds.get(key) != news.get(key)}
            if keys:
                yield f"{kind} {name}: {', '.join(sorted(keys))}"


def _changed_entries(
    describe_entry: Callable[[Any], str], before: Iterable[Struct], after: Iterable[Struct]
) -> Iterator[str]:
    olds, news = ({describe_entry(entry): _bare(to_builtins(entry)) for entry in rows} for rows in (before, after))
    for name in dict.fromkeys((*olds, *news)):
        if olds.get(name) != news.get(name):
            yield f"{name} {'is new' if name not in olds else 'is gone' if name not in news else 'is another'}"


def _assumption(row: Assumption) -> str:
    return f"assumption of {row.fact} {row.value} ({row.because})"


def _contradiction(row: Contradiction) -> str:
    return f"refusal {row.say}"


def _fix(row: FixRule) -> str:
    return f"change that may make a run fit, {row.id}"


def _gpu(gpu: Gpu) -> str:
    return f"GPU {gpu.id}"


def _bare(value: Any) -> Any:
    """Return plain data without its positions and layers."""
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items() if key not in ("at", "layer")}
    return [_bare(inner) for inner in value] if isinstance(value, list) else value


def _with_optimizers_of(catalog: Catalog, other: Catalog) -> Catalog:
    """Return a catalog whose facts take the optimizers of another one too, so that both have the same axes."""
    facts = {
        name: replace(fact, values={**(fact.values or {}), **(other.facts[name].values or {})})
        if fact.values_from else fact
        for name, fact in catalog.facts.items()
    }  # fmt: skip
    return catalog.with_base(replace(catalog.base, facts=facts))


def markdown(difference: Difference) -> str:
    """Return a difference as Markdown for a pull request.

    Args:
        difference: What was compared.
    """
    if difference.same:
        return "The two sets of rules answer every situation alike.\n"
    lines = []
    for section in difference.sections:
        lines += [f"### {section.title}", "", "| situations | before | after | try |", "|---|---|---|---|"]
        for change in section.changes:
            shown = f"`{change.witness}`" if change.witness else ""
            lines.append(
                "| " + " | ".join(_cell(text) for text in (change.where, change.old, change.new, shown)) + " |"
            )
        lines.append("")
    if difference.cards:
        lines += ["### Cards", "", *(f"- {_cell(card)}" for card in difference.cards), ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
