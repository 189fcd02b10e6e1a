"""A recommendation as text: the answer first, then why, then what it costs and what else there is."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import (
    SHIPPED,
    AdviceWarning,
    Alternative,
    HyperparameterStep,
    MemoryAnswer,
    Recommendation,
    TraceEntry,
)
from optadvise.core.units import show_bytes, show_count, show_number
from optadvise.evidence.apply import REFUTED_CHOICE
from optadvise.render.text import evidence
from optadvise.render.text.console import Page, grid, heading, paragraph, titled
from optadvise.render.text.estimate import chains, ledger, verdict
from optadvise.render.text.situation import assumed
from optadvise.render.text.why import Why, losers, why_not
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import written


def text(
    advice: Recommendation,
    catalog: Catalog,
    fit: MemoryAnswer | None = None,
    why: Why | None = None,
    *,
    plain: bool = False,
) -> str:
    """Return a recommendation as text for a terminal.

    Args:
        advice: The recommendation.
        catalog: Where cites and facts are looked up.
        fit: What would make it fit, where it does not for certain.
        why: What else is explained.
        plain: It goes to a file, so that it has no colours.
    """
    page = Page(keep=True, plain=plain)
    with page as out:
        _answer(out, advice)
        _why(out, advice)
        _found(out, advice)
        if why is not None and why.not_ is not None:
            why_not(out, why.not_, why.axes, catalog)
        if why is not None and why.decisions:
            losers(out, why.decisions, why.axes)
            _ledgers(out, advice)
        _memory(out, advice)
        if fit is not None:
            chains(out, fit, catalog, told=True)
        _alternatives(out, advice)
        _flips(out, advice, catalog)
        _warnings(out, advice)
        assumed(out, advice.situation, catalog)
        _next(out, advice)
    return page.text


def _answer(out: Console, advice: Recommendation) -> None:
    optimizer, implementation = advice.optimizer, advice.implementation
    out.print(f"[bold]{escape(optimizer.name)}[/bold]  ({optimizer.id})")
    where = implementation.path
    if implementation.package and implementation.package != "torch":
        where += f", from pip install {implementation.package}"
    out.print(f"  {escape(where)}", soft_wrap=True)
    for warning in advice.warnings:
        if warning.id.startswith(REFUTED_CHOICE):
            table = grid("left", "wrap")
            table.add_row("", "[bold]![/bold]", escape(warning.text))
            out.print(table)
    off = evidence.deviates(implementation, advice.evidence)
    if off is not None:
        table = grid("wrap")
        table.add_row("", f"[bold]{escape(off)}[/bold]")
        out.print(table)
    if optimizer.companion and advice.companion:
        companion = advice.companion
        shown = ", ".join(f"{name} {written(value)}" for name, value in companion.kwargs.items())
        table = grid("wrap")
        table.add_row(
            "", escape(f"with {companion.implementation.path} ({shown}) beside it for {optimizer.companion['for']}")
        )
        out.print(table)
    if advice.memory.fits is False:
        need, have = advice.memory.total or advice.memory.known or 0, advice.memory.available or 0
        out.print(f"  [bold]Does not fit[/bold]: {show_bytes(need)} needed of {show_bytes(have)}; see below")
    out.print()
    table = grid("left", "left", "wrap")
    for number in advice.hyperparameters:
        if number.value is None:
            continue
        span = ""
        if number.low is not None and number.high is not None:
            span = f"usual {show_number(number.low)} … {show_number(number.high)}"
        table.add_row("", number.name, f"[bold]{escape(written(number.value))}[/bold]", span)
    table.add_row("", "schedule", f"[bold]{advice.schedule.id}[/bold]", schedule_words(advice))
    out.print(table)


def schedule_words(advice: Recommendation) -> str:
    """Return what a schedule does over the run."""
    named = advice.schedule.quantities
    total, warmup, floor = named["total_steps"], named["warmup_steps"], named["floor_lr"]
    words = f"over {total:,} steps"
    if warmup:
        words += f", {warmup:,} of them up"
    if isinstance(floor, float) and floor > 0:
        words += f", down to {show_number(floor)}"
    milestones = named.get("milestones")
    if isinstance(milestones, list) and milestones:
        words += f", a tenth after each of {', '.join(f'{m:,}' for m in milestones)}"
    return words


def _why(out: Console, advice: Recommendation) -> None:
    out.print(heading("Why"))
    table = grid("left", "wrap")
    for entry in advice.trace:
        table.add_row("", entry.rule, f"{escape(entry.because)}{_sources(entry)}")
    out.print(table)


def _found(out: Console, advice: Recommendation) -> None:
    table = grid("left", "wrap")
    for line in evidence.lines(advice.evidence):
        table.add_row("", "·", escape(line))
    if table.row_count:
        out.print(heading(evidence.HEADING))
        out.print(table)


def _sources(entry: TraceEntry | HyperparameterStep | AdviceWarning) -> str:
    """Return what an entry rests on, and whose it is where it is not the program's own."""
    whose = "" if entry.layer == SHIPPED else f", from {entry.layer}"
    return f" [dim]\\[{escape(', '.join(entry.cite) + whose)}][/dim]"


def _ledgers(out: Console, advice: Recommendation) -> None:
    out.print(heading("How each number came to be"))
    for number in advice.hyperparameters:
        table = grid("left", "left", "wrap")
        out.print(f"  {number.name} = {written(number.value)}")
        for entry in number.derivation:
            table.add_row("", f"  {entry.rule}", escape(entry.step), f"{escape(entry.because)}{_sources(entry)}")
        out.print(table)


def _memory(out: Console, advice: Recommendation) -> None:
    memory = advice.memory
    if memory.known is None and not advice.max_model_sizes:
        out.print(heading("Memory"))
        more = "" if memory.available is not None else "; --vram or --gpu tells what would fit"
        out.print(f"  Not known without --params{more}.")
        return
    if memory.known is not None:
        ledger(out, memory)
        out.print(paragraph(verdict(memory, advice.situation)))
    else:
        out.print(heading("Memory"))
    if advice.max_model_sizes:
        size = show_bytes(memory.available or 0)
        out.print(f"  Up to which model size each is expected to fit {size} (derived, typical shapes):")
        table = grid("left", "right", "wrap", indent=4)
        for band in sorted(advice.max_model_sizes, key=lambda b: -b.max_params):
            each = f"{band.bytes_per_parameter:.2f} B per parameter in all" if band.max_params else "no size"
            table.add_row("", band.optimizer, show_count(band.max_params), each)
        out.print(table)


def _alternatives(out: Console, advice: Recommendation) -> None:
    if not advice.alternatives:
        return
    out.print(heading("Alternatives"))
    table = titled(2, ("", "left"), ("state", "right"), ("", "wrap"))
    for other in advice.alternatives:
        no = "[bold]does not fit[/bold]; " if other.fits is False else ""
        table.add_row("", other.id, state_words(other), no + escape(other.because))
    out.print(table)


def state_words(other: Alternative) -> str:
    """Return what another optimizer keeps, in bytes where the size is known."""
    if other.optimizer_bytes is not None:
        return show_bytes(other.optimizer_bytes)
    each = other.state_bytes_per_parameter
    return "none" if each == 0 else "< 0.01 B/p" if each < 0.01 else f"{each:.2f} B/p"


def _flips(out: Console, advice: Recommendation, catalog: Catalog) -> None:
    if not advice.sensitivities:
        return
    out.print(heading("Would change with"))
    table = grid("left", "left")
    for flip in advice.sensitivities:
        for name, change in flip.change.items():
            shown = "" if change == "true" else f" {escape(change)}"
            table.add_row("", f"{flag(catalog, name)}{shown}", f"→ {flip.optimizer}")
    out.print(table)


def flag(catalog: Catalog, name: str) -> str:
    """Return the option that states a fact."""
    return str(catalog.facts[name].get("flag", name))


def _warnings(out: Console, advice: Recommendation) -> None:
    if not advice.warnings:
        return
    out.print(heading("Know before you start"))
    table = grid("left", "wrap")
    for warning in sorted(advice.warnings, key=lambda w: w.level != "warning"):
        if warning.id.startswith(REFUTED_CHOICE):
            continue  # it was said first
        mark = "[bold]![/bold]" if warning.level == "warning" else "·"
        table.add_row("", mark, f"{escape(warning.text)}{_sources(warning)}")
    out.print(table)


def _next(out: Console, advice: Recommendation) -> None:
    out.print(heading("Next"))
    out.print(f"  optadvise bench {advice.optimizer.id}")
    out.print("  the same line with --json | optadvise bench - measures exactly this advice")
