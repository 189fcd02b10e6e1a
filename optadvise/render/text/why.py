"""Why the answer is this one, and not another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from rich.console import Console
from rich.markup import escape

from optadvise.render.text.console import grid, heading
from optadvise.rule_analysis.describe import told
from optadvise.rule_analysis.why_not import Change, Decision, WhyNot
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.near_misses import NearMiss
from optadvise.rulebase.tables import Axis


class Why(Struct, frozen=True):
    """What is explained beside the answer."""

    axes: Mapping[str, Axis]
    decisions: tuple[Decision, ...] = ()
    not_: WhyNot | None = None


def data(why: Why) -> dict[str, Any]:
    """Return what is explained as plain data, under the keys that a recommendation takes."""
    found: dict[str, Any] = {}
    if why.decisions:
        found["explain"] = [
            {"table": d.table, "rule": d.rule, "near": [_miss(miss, why.axes) for miss in d.near]}
            for d in why.decisions
        ]
    if why.not_ is not None:
        said = why.not_
        found["why_not"] = {
            "optimizer": said.optimizer, "answer": said.answer, "refused": said.refused, "fits": said.fits,
            "rows": [_miss(miss, why.axes) for miss in said.rows],
            "concerns": {name: _miss(miss, why.axes) for name, miss in said.concerns.items()},
            "beside": said.beside,
            "changes": [{"change": dict(change.facts), "effort": change.effort} for change in said.changes],
        }  # fmt: skip
    return found


def _miss(miss: NearMiss, axes: Mapping[str, Axis]) -> dict[str, Any]:
    missed = [
        {"fact": name, "asks": _value(name, mask, axes), "is": _value(name, 1 << cell, axes)}
        for name, mask, cell in miss.missed
    ]
    return {"rule": miss.rule.id, "missed": missed, "beaten_by": miss.beaten_by}


def _value(name: str, mask: int, axes: Mapping[str, Axis]) -> str:
    return told(name, mask, axes[name]).removeprefix(f"{name} ")


def losers(out: Console, decisions: Sequence[Decision], axes: Mapping[str, Axis]) -> None:
    """Print the rows that came nearest to deciding, and what each missed."""
    out.print(heading("What came nearest"))
    table = grid("left", "wrap")
    for decision in decisions:
        for miss in decision.near:
            table.add_row("", miss.rule.id, escape(_words(miss, axes)))
    out.print(table)


def _words(miss: NearMiss, axes: Mapping[str, Axis]) -> str:
    gives = next((str(v) for key, v in miss.rule.then.items() if key in ("concern", "optimizer", "scheduler")), "")
    if miss.beaten_by is not None:
        return f"{gives}: applies, but {miss.beaten_by} comes before it"
    asks = " and ".join(
        f"{told(name, mask, axes[name])}, here {_value(name, 1 << cell, axes)}" for name, mask, cell in miss.missed
    )
    return f"{gives}: asks for {asks}"


def why_not(out: Console, found: WhyNot, axes: Mapping[str, Axis], catalog: Catalog) -> None:
    """Print what keeps an optimizer from being the answer."""
    out.print(heading(f"Why not {found.optimizer}"))
    table = grid("wrap")
    if found.answer == found.optimizer:
        table.add_row("", "It is the answer.")
        out.print(table)
        return
    if found.refused is not None:
        table.add_row("", f"It is refused here: {escape(found.refused)}.")
    if found.fits is False:
        table.add_row("", "Training with it is not expected to fit.")
    if found.beside is not None:
        table.add_row("", f"It is named beside {found.answer}: {escape(found.beside)}.")
    if not found.rows:
        table.add_row("", "No rule names it first; it is taken when it is asked for.")
    for miss in found.rows:
        table.add_row("", f"{miss.rule.id} names it, {escape(_words(miss, axes).split(': ', 1)[1])}.")
    for name, miss in found.concerns.items():
        table.add_row("", f"The concern {name} decides by {miss.rule.id}, which {escape(_why_concern(miss, axes))}.")
    for change in found.changes:
        table.add_row("", f"The answer with [bold]{escape(_flags(change, catalog))}[/bold], which was tried.")
    if not found.changes:
        table.add_row("", "No change of up to three facts makes it the answer.")
    table.add_row("", f"Taken anyway with --optimizer {found.optimizer}.")
    out.print(table)


def _why_concern(miss: NearMiss, axes: Mapping[str, Axis]) -> str:
    return _words(miss, axes).split(": ", 1)[1]


def _flags(change: Change, catalog: Catalog) -> str:
    words = []
    for name, value in change.facts.items():
        flag = catalog.facts[name].get("flag", name)
        words.append(flag if value == "true" else f"{flag} {value}")
    return " and ".join(words)
