"""Sentences and rows of a memory estimate that its text, Markdown and HTML share."""

from __future__ import annotations

from msgspec import Struct
from rich.text import Text

from optadvise.core.records import MemoryAnswer, MemoryEstimate, Situation
from optadvise.core.units import show_bytes
from optadvise.render.labels import format_interval


class BreakdownRow(Struct, frozen=True):
    """One part of the breakdown: bytes at the peak where the peak is known, else all of them (None: not known)."""

    part: str
    size_bytes: int | None
    note: str


def list_breakdown(memory: MemoryEstimate) -> list[BreakdownRow]:
    """Return the rows of a breakdown; a part that is not there at the peak notes its whole size."""
    if memory.total is None:
        return [BreakdownRow(part=line.part, size_bytes=line.bytes, note=line.how) for line in memory.breakdown]
    rows = []
    for line in memory.breakdown:
        is_elsewhere = not line.at_peak and line.bytes
        note = f"{show_bytes(line.bytes or 0)} in all: {line.how}" if is_elsewhere else line.how
        rows.append(BreakdownRow(part=line.part, size_bytes=line.at_peak or 0, note=note))
    return rows


def describe_allocator(memory: MemoryEstimate) -> str:
    """Return what torch and nvidia-smi show of the total."""
    allocated, reserved = show_bytes(memory.allocated or 0), show_bytes(memory.reserved or 0)
    return f"torch allocates {allocated} and reserves {reserved}; nvidia-smi shows the total"


def describe_fit(memory: MemoryEstimate, situation: Situation) -> Text:
    """Return whether a run fits, in a sentence."""
    if memory.total is None or memory.interval is None:
        needed = show_bytes(memory.model_states or 0)
        if memory.fits is False:
            limit = show_bytes(memory.available or 0)
            return _emphasize("*Does not fit*", f" {limit}: weights, gradients and state alone are {needed}.")
        return Text(f"Weights, gradients and state are {needed}; activations need the shape.")
    per_gpu = " of each GPU" if situation.gpus > 1 else ""
    needs = ("needs about ", f"*{show_bytes(memory.total)}*", f" ({format_interval(memory.interval)}){per_gpu}")
    if memory.available is None:
        return _emphasize("It ", *needs, "; --gpu or --vram tells whether it fits.")
    limit = show_bytes(memory.available)
    where = f"{situation.gpu}, {limit}" if situation.gpu else limit
    if memory.fits is False:
        return _emphasize("*Does not fit*", f" {where}: it ", *needs, ".")
    is_likely = memory.total - memory.pageable <= memory.available
    verdict = "Fits" if memory.fits else "Probably fits" if is_likely else "Probably does not fit"
    paging = " by paging state out to the host" if is_likely and memory.total > memory.available else ""
    return _emphasize(f"*{verdict}*", f" {where}{paging}: it ", *needs, ".")


def _emphasize(*parts: str) -> Text:
    """Join parts of a sentence; a part within asterisks is bold."""
    return Text.assemble(*((part[1:-1], "bold") if part.startswith("*") else part for part in parts))


def has_fixes(answer: MemoryAnswer) -> bool:
    """Return whether there is something to say of what would make a run fit."""
    if answer.situation.vram_bytes is None or answer.memory.model_states is None or answer.memory.fits is True:
        return False
    return bool(answer.fixes) or answer.memory.fits is False
