"""Will it fit: the ledger with a bar, every optimizer in the run's place, and the cheapest changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import Fit, MemoryAnswer, MemoryEstimate, Situation
from optadvise.core.units import show_bytes, show_count
from optadvise.memory import INPUTS
from optadvise.render.text.console import Page, grid, heading, paragraph, titled
from optadvise.render.text.scaling import several
from optadvise.render.text.situation import assumed
from optadvise.rulebase.catalog import Catalog

_BAR = 18  # columns
_EIGHTHS = " ▏▎▍▌▋▊▉"


def text(answer: MemoryAnswer, catalog: Catalog, *, everything: bool) -> None:
    """Print the answer.

    Args:
        answer: What was worked out.
        catalog: Knows names and flags.
        everything: Every optimizer on a line of its own.
    """
    with Page() as out:
        _title(out, answer, catalog)
        ledger(out, answer.memory)
        _passes(out, answer)
        several(out, answer)
        chains(out, answer, catalog)
        _ranking(out, answer, everything=everything)
        assumed(out, answer.situation, catalog, only={*INPUTS, "optimizer", "task"})


def _title(out: Console, answer: MemoryAnswer, catalog: Catalog) -> None:
    situation = answer.situation
    name = catalog.optimizer(answer.optimizer).name
    size = show_count(situation.params or 0)
    what = f"{situation.shape.name}, {size} parameters" if situation.shape is not None else f"{size} parameters"
    out.print(f"[bold]{escape(what)}[/bold] with {escape(name)}, {_how(situation)}")
    out.print(paragraph(verdict(answer.memory, situation)))


def _how(situation: Situation) -> str:
    words = [situation.precision] if situation.method == "full" else [f"{situation.method} in {situation.precision}"]
    length = f" × {situation.seq_len or situation.image_size}" if situation.seq_len or situation.image_size else ""
    words.append(f"passes of {situation.micro_batch or 1}{length}")
    if situation.gpus > 1:
        words.append(f"{situation.gpus} GPUs" + ("" if situation.shard == "none" else f", {situation.shard}"))
    return ", ".join(words)


def verdict(memory: MemoryEstimate, situation: Situation) -> str:
    """Return whether a run fits, in a sentence."""
    if memory.total is None or memory.interval is None:
        if memory.fits is False:
            return (
                f"[bold]Does not fit[/bold] {show_bytes(memory.available or 0)}: weights, gradients and state alone "
                f"are {show_bytes(memory.known or 0)}."
            )
        return f"Weights, gradients and state are {show_bytes(memory.known or 0)}; activations need the shape."
    span = f"{show_bytes(memory.interval.low)} to {show_bytes(memory.interval.high)}"
    each = " of each GPU" if situation.gpus > 1 else ""
    needs = f"needs about [bold]{show_bytes(memory.total)}[/bold] ({span}){each}"
    if memory.available is None:
        return f"It {needs}; --gpu or --vram tells whether it fits."
    where = (
        f"{escape(situation.gpu)}, {show_bytes(memory.available)}" if situation.gpu else show_bytes(memory.available)
    )
    if memory.fits is False:
        return f"[bold]Does not fit[/bold] {where}: it {needs}."
    likely = memory.total - memory.pages <= memory.available
    word = "Fits" if memory.fits else "Probably fits" if likely else "Probably does not fit"
    paging = " by paging state out to the host" if likely and memory.total > memory.available else ""
    return f"[bold]{word}[/bold] {where}{paging}: it {needs}."


def ledger(out: Console, memory: MemoryEstimate) -> None:
    """Print the ledger of one GPU."""
    if memory.total is None:
        out.print(heading("Memory of one GPU, derived"))
        table = grid("left", "right", "wrap")
        for line in memory.ledger:
            table.add_row("", line.part, "not known" if line.bytes is None else show_bytes(line.bytes), line.how)
        out.print(table)
        return
    out.print(heading(f"Memory of one GPU, derived; highest in {memory.peak}"))
    table = titled(2, ("", "left"), ("at the peak", "right"), ("", "left"), ("", "wrap"))
    most = max((line.at_peak or 0 for line in memory.ledger), default=1) or 1
    for line in memory.ledger:
        at = line.at_peak or 0
        table.add_row(
            "", line.part, show_bytes(at) if at else "–", bar(at / most), escape(_words(line.bytes, at, line.how))
        )
    table.add_row("", "[bold]total[/bold]", f"[bold]{show_bytes(memory.total)}[/bold]", "", sums(memory))
    out.print(table)


def _words(whole: int | None, at: int, how: str) -> str:
    return f"{show_bytes(whole)} in all: {how}" if whole is not None and whole != at and not at else how


def sums(memory: MemoryEstimate) -> str:
    """Return what tools show of a total."""
    allocated, reserved = show_bytes(memory.allocated or 0), show_bytes(memory.reserved or 0)
    return f"torch allocates {allocated} and reserves {reserved}; nvidia-smi shows the total"


def bar(share: float, columns: int = _BAR // 2) -> str:
    """Return a bar of block characters.

    Example:
        >>> bar(0.5, 4)
        '██'
    """
    eighths = round(share * columns * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _passes(out: Console, answer: MemoryAnswer) -> None:
    if answer.passes:
        _by_gpu(out, answer.passes)
    if answer.largest_pass is None:
        return
    most = answer.largest_pass
    words = f"{most:,} sample{'s' if most > 1 else ''} in one pass" if most else "not even one sample in a pass"
    if answer.longest:
        words += f", or samples of {answer.longest:,} tokens in passes of {answer.situation.micro_batch or 1}"
    out.print(heading("Largest that fits, by what is expected"))
    out.print(paragraph(words))


def _by_gpu(out: Console, passes: Mapping[str, int]) -> None:
    out.print(heading("Samples in one pass on usual GPUs, by what is expected"))
    table = titled(2, *((gpu, "right") for gpu in passes))
    table.add_row("", *(f"{count:,}" if count else "–" for count in passes.values()))
    out.print(table)


def chains(out: Console, answer: MemoryAnswer, catalog: Catalog, *, told: bool = False) -> None:
    """Print what would make a run fit, the cheapest first.

    Args:
        out: Where.
        answer: The run.
        catalog: Knows the flags.
        told: Say which optimizer the figures are for, as another command may choose another.
    """
    if answer.situation.vram_bytes is None or answer.memory.known is None:
        return
    if answer.memory.fits is True or (not answer.fixes and answer.memory.fits is None):
        return
    out.print(heading("What would make it fit, the cheapest first"))
    if not answer.fixes:
        out.print(
            paragraph("Nothing among the changes that are known here; a smaller network, or GPUs with more memory.")
        )
        return
    if "optimizer" in answer.situation.assumed and told:
        out.print(f"  Each with --optimizer {answer.optimizer}, unless it names another.")
    for number, chain in enumerate(answer.fixes, 1):
        paged = f", and {show_bytes(chain[-1].pages)} that may be paged out," if chain[-1].pages else ""
        out.print(f"  {number}. [bold]{show_bytes(chain[-1].needs)}[/bold]{paged} with")
        table = grid("left", "wrap", indent=5)
        for fix in chain:
            instead = f"instead of {change(fix.instead, catalog)}; " if fix.instead else ""
            words = f"{instead}saves {show_bytes(fix.saves)}; costs {fix.costs}"
            table.add_row(
                "", escape(change(fix.change, catalog)), f"{escape(words)} [dim]\\[{', '.join(fix.cite)}][/dim]"
            )
        out.print(table)


def change(facts: Mapping[str, Any], catalog: Catalog) -> str:
    """Return the options that state facts."""
    shown = []
    for name, value in facts.items():
        flag = str(catalog.facts[name].get("flag", f"--{name.replace('_', '-')}"))
        shown.append(flag if value is True else f"{flag} {value}")
    return " ".join(shown)


def _ranking(out: Console, answer: MemoryAnswer, *, everything: bool) -> None:
    limited = answer.situation.vram_bytes is not None
    tokens = answer.situation.seq_len is not None
    out.print(
        heading("Every optimizer in its place" if everything else "Optimizers in its place, those alike on one line")
    )
    columns = [("", "fold"), ("state", "right"), ("total", "right")]
    columns += [("fits", "left"), ("largest pass", "right")] if limited else [("", "left")]
    columns += [("longest", "right")] if limited and tokens else []
    table = titled(2, *columns)
    for names, fit in _groups(answer.optimizers, everything):
        total = fit.total if fit.total is not None else fit.known
        row = [names, "–" if not fit.optimizer_bytes else show_bytes(fit.optimizer_bytes),
               "not known" if total is None else show_bytes(total)]  # fmt: skip
        if limited:
            row += [{True: "yes", False: "no", None: "perhaps"}[fit.fits] + (", breaks" if fit.breaks else "")]
            row += ["–" if not fit.largest_pass else f"{fit.largest_pass:,}"]
        else:
            row += ["breaks" if fit.breaks else ""]
        if limited and tokens:
            row += ["–" if not fit.longest else f"{fit.longest:,}"]
        table.add_row("", *row)
    out.print(table)
    if any(fit.breaks for fit in answer.optimizers):
        words = "breaks: fails or computes something else where it is sharded so; optadvise show says how"
        out.print(paragraph(words))


def _groups(fits: Iterable[Fit], everything: bool) -> Iterable[tuple[str, Fit]]:
    def shown(fit: Fit) -> tuple[object, ...]:
        sizes = (None if size is None else show_bytes(size) for size in (fit.optimizer_bytes, fit.total, fit.known))
        return (fit.id,) if everything else (*sizes, fit.fits, fit.largest_pass, fit.longest, fit.basis, fit.breaks)

    for _, alike in groupby(fits, key=shown):
        members = list(alike)
        yield ", ".join(fit.id for fit in members), members[0]
