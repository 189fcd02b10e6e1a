"""Which rows can be reached at all: the chain of tables as regions of the situations that people can state.

The chain is concern → optimizer → its card → schedule → numbers and warnings. Each link is a box of facts, and the
boxes that take something away from it: rows that come before, contradictions, what is always assumed. Only the memory
arithmetic is not looked into: a size and a limit may press in any of its ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.decide import read_card_facts
from optadvise.advice.hyperparameters import is_table_read
from optadvise.advice.schedule_choice import restrict_schedule
from optadvise.core.cards import Optimizer, Scheduler
from optadvise.core.records import Situation
from optadvise.rulebase.proofs import winning
from optadvise.rulebase.records import Condition, Rule
from optadvise.rulebase.regions import Box, Point, lowest, meet, uncovered
from optadvise.rulebase.tables import Table

_UNNAMED = Situation()  # where no GPU was named


class Link(Struct, frozen=True):
    """A part of the situations, and what of it does not count."""

    box: Box
    against: tuple[Box, ...]


class Chain:
    """Where every table of a compiled set of rules is read from."""

    def __init__(self, advisor: CompiledRules) -> None:
        """Work out what no situation can be."""
        self.advisor = advisor
        self.axes = advisor.axes
        conditions = [row.when for row in advisor.catalog.base.contradictions]
        told = [self._box(when) for when in conditions]
        self._never = [*self._assumed(), *self._derived(), *(box for box in told if "optimizer" not in box)]
        self._never_asked = [box for box in told if "optimizer" in box]

    def _box(self, when: Mapping[str, Condition]) -> dict[str, int]:
        return {name: self.axes[name].accepted(condition) for name, condition in when.items()}

    def _assumed(self) -> Iterator[dict[str, int]]:
        """What is assumed is never unknown."""
        for row in self.advisor.catalog.base.assume:
            axis = self.axes[row.fact]
            yield {**self._box(row.when), row.fact: 1 << axis.unknown}

    def _derived(self) -> Iterator[dict[str, int]]:
        """What the memory arithmetic says hangs on what is known (`Advisor.pressure`, `Advisor._add_fit`)."""
        axes = self.axes
        vram, params = 1 << axes["vram_bytes"].unknown, 1 << axes["params"].unknown
        memory, fits, share = axes["memory"], axes["fits"], axes["state_share"]
        unlimited, limited = 1 << memory.cell("unlimited"), 1 << memory.cell("limited")
        not_fits, not_share = 1 << fits.unknown, 1 << share.unknown
        yield {"vram_bytes": vram, "memory": memory.every & ~unlimited}
        yield {"vram_bytes": axes["vram_bytes"].every & ~vram, "memory": unlimited}
        yield {"params": axes["params"].every & ~params, "memory": limited}
        yield {"params": params, "memory": memory.every & ~unlimited & ~limited}
        yield {"params": params, "fits": fits.every & ~not_fits}
        yield {"vram_bytes": vram, "fits": fits.every & ~not_fits}
        yield {"params": axes["params"].every & ~params, "vram_bytes": axes["vram_bytes"].every & ~vram,
               "fits": not_fits}  # fmt: skip
        yield {"params": params, "state_share": share.every & ~not_share}
        # A GPU that is named states its memory as well.
        yield {"vendor": axes["vendor"].every & ~(1 << axes["vendor"].cell(_UNNAMED.vendor)), "vram_bytes": vram}
        yield {"bf16": axes["bf16"].every & ~(1 << axes["bf16"].cell(_UNNAMED.bf16)), "vram_bytes": vram}

    def _rows(self, table: Table) -> Iterator[tuple[Rule, Link]]:
        """Yield a table's rows, what it says otherwise included, with where each wins by its own table."""
        for rule in (*table.rules, *((table.otherwise,) if table.otherwise else ())):
            box, over = winning(table, rule, self.axes)
            yield rule, Link(box, tuple(over))

    def _joined(self, a: Link, b: Link) -> Link | None:
        """Return where both hold; None where nothing is left."""
        box = meet(a.box, b.box)
        if box is None:
            return None
        against = (*a.against, *b.against)
        return None if uncovered(box, against, self.axes) is None else Link(box, against)

    @cached_property
    def start(self) -> list[Link]:
        """Everything that a person can say."""
        return [Link({}, tuple(self._never))]

    @cached_property
    def concerns(self) -> list[tuple[Rule, Link]]:
        """Where each concern decides."""
        (everything,), found = self.start, []
        for rule, link in reversed(list(self._rows(self.advisor.tables["concern"]))):  # the ordinary one first
            own = {**link.box, "concern": 1 << self.axes["concern"].cell(rule.derived["concern"])}
            joined = self._joined(everything, Link(own, link.against))
            if joined is not None:
                found.append((rule, joined))
        return found

    @cached_property
    def choices(self) -> list[tuple[Rule, Link]]:
        """Where each row of the optimizer's table decides, before its card adds its facts."""
        rows = list(self._rows(self.advisor.tables["choose_optimizer"]))
        return [
            (rule, joined)
            for _, before in self.concerns
            for rule, link in rows
            if (joined := self._joined(before, link)) is not None
        ]

    @cached_property
    def optimizers(self) -> list[Link]:
        """Where each optimizer is taken, chosen or asked for, with the facts of its card."""
        found = []
        for rule, link in self.choices:
            card = self.advisor.catalog.optimizer(rule.choice.chosen)
            found += [self._joined(link, own) for own in self._card(card, asked_for=False)]
        for name in self.advisor.catalog.optimizer_ids:
            for own in self._card(self.advisor.catalog.optimizer(name), asked_for=True):
                found += [self._joined(before, own) for _, before in self.concerns]
        return [link for link in found if link is not None]

    def _card(self, card: Optimizer, *, asked_for: bool) -> Iterator[Link]:
        model = self.axes["model"]
        suits = sum(1 << model.cell(kind) for kind in card.suits)
        facts = {**read_card_facts(card, card.implementations[0], self.axes), "asked_for": asked_for}
        against = tuple(self._never_asked) if asked_for else ()
        for suited, models in ((True, suits), (False, model.every & ~suits)):
            own = {name: 1 << self.axes[name].cell(value) for name, value in {**facts, "suited": suited}.items()}
            if models:
                yield Link({**own, "model": models}, against)

    def _scheduled(self) -> Iterator[tuple[Rule, Link, Scheduler]]:
        """Yield where each row of the schedule's table is read, with the schedule that is taken."""
        advisor, axis = self.advisor, self.axes["schedule"]
        rows = list(self._rows(advisor.tables["choose_schedule"]))
        for before in self.optimizers:
            card = self._taken(before)
            for rule, link in rows:
                box = meet(before.box, link.box)
                if box is not None:
                    taken = restrict_schedule(advisor, card, rule.choice.chosen)
                    box["schedule"] = 1 << axis.cell(taken.family)
                    yield rule, Link(box, (*before.against, *link.against)), taken

    @cached_property
    def schedules(self) -> list[tuple[Rule, Link, Scheduler]]:
        """Every way to a schedule; some may be empty."""
        return list(self._scheduled())

    def reaching(self, box: Box, against: Iterable[Box] = (), links: Iterable[Link] | None = None) -> Point | None:
        """Return a point that a situation leads to, inside a box and outside of others; None where there is none.

        Args:
            box: Where to look.
            against: Boxes to avoid.
            links: The part of the chain that has been decided there; all of it unless given.
        """
        others = tuple(against)
        prefer = self._usual
        if links is None:
            late = any("schedule" in region for region in (box, *others))
            links = (link for _, link, _ in self.schedules) if late else self.optimizers
        for link in links:
            both = meet(link.box, box)
            if both is not None and (point := uncovered(both, (*link.against, *others), self.axes, prefer)) is not None:
                return point
        return None

    def reading(self, table: str, box: Box, against: Iterable[Box] = ()) -> Point | None:
        """Return a point that a situation leads to at the time when a table is read; None where there is none.

        Args:
            table: The table.
            box: Where to look.
            against: Boxes to avoid.
        """
        if table == "memory_notation":  # read by `show` for any optimizer
            return uncovered(box, against, self.axes)
        links: Iterable[Link]
        if table == "concern":
            links = self.start
        elif table == "choose_optimizer":
            links = [link for _, link in self.concerns]
        elif table == "choose_schedule" or not self._read_late(table, box, against):
            links = [link for link in self.optimizers if is_table_read(table, self._taken(link))]
        else:
            links = (
                link for _, link, taken in self.schedules if is_table_read(table, self._taken(link), taken)
            )  # fmt: skip
        return self.reaching(box, against, links)

    def _read_late(self, table: str, box: Box, against: Iterable[Box]) -> bool:
        """Does it matter which schedule was taken?"""
        return table == "warmup" or any("schedule" in region for region in (box, *against))

    def _taken(self, link: Link) -> Optimizer:
        words = self.axes["optimizer"].words or ()
        return self.advisor.catalog.optimizer(words[lowest(link.box["optimizer"])])

    @cached_property
    def _usual(self) -> dict[str, int]:
        filled = self.advisor.completer.fill({})
        usual = {name: axis.cell(filled[name]) for name, axis in self.axes.items() if name in filled}
        others = {name: axis.unknown for name, axis in self.axes.items() if name not in filled}
        return {**others, **usual, "memory": self.axes["memory"].cell("unlimited")}

    def unreached(self, table: Table) -> Iterator[Rule]:
        """Yield the rows of a table that no situation leads to."""
        # These are read before a card's facts are there.
        early = self.concerns if table.id == "concern" else self.choices if table.id == "choose_optimizer" else None
        if early is not None:
            reached = {rule.id for rule, _ in early}
            yield from (rule for rule, _ in self._rows(table) if rule.id not in reached)
            return
        for rule, link in self._rows(table):
            if self.reading(table.id, link.box, link.against) is None:
                yield rule
