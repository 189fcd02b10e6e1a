"""Sentences and rows of a memory estimate that its text, Markdown and HTML share."""

from __future__ import annotations

from msgspec import Struct
from rich.text import Text

from optadvise.core.records import Fix, MaxModelSize, MemoryAnswer, MemoryEstimate, Situation
from optadvise.core.units import show_bytes
from optadvise.memory.intervals import OTHER_NETWORKS
from optadvise.memory.training_step import LOSS
from optadvise.render.labels import format_interval, format_sharding

_LARGE_PARTS = 4


class BreakdownRow(Struct, frozen=True):
    """One part of the breakdown: bytes at the peak if the peak is known, otherwise its whole size (None: unknown)."""

    part: str
    size_bytes: int | None
    note: str


def list_breakdown(memory: MemoryEstimate) -> list[BreakdownRow]:
    """Return the rows of a breakdown; the note of a part that is not allocated at the peak has its whole size."""
    if memory.total is None:
        return [BreakdownRow(part=line.part, size_bytes=line.bytes, note=line.how) for line in memory.breakdown]
    rows = []
    for line in memory.breakdown:
        is_elsewhere = not line.at_peak and line.bytes
        note = (
            f"not allocated at the peak, otherwise {show_bytes(line.bytes or 0)}: {line.how}"
            if is_elsewhere
            else line.how
        )
        rows.append(BreakdownRow(part=line.part, size_bytes=line.at_peak or 0, note=note))
    return rows


def list_large_parts(memory: MemoryEstimate) -> str:
    """Return the largest parts of the memory of one GPU with their sizes, the largest first."""
    rows = ((row.size_bytes or 0, _name_part(row)) for row in list_breakdown(memory))
    sizes = sorted(rows, reverse=True)[:_LARGE_PARTS]
    return ", ".join(f"{part} {show_bytes(size)}" for size, part in sizes if size)


def _name_part(row: BreakdownRow) -> str:
    """Return the name of a part: of other networks, which they are."""
    return row.note.partition(" (")[0].partition(",")[0] if row.part == OTHER_NETWORKS else row.part


def describe_peak(memory: MemoryEstimate) -> str:
    """Return the phase of the training step with the peak: `during the backward pass`."""
    return "while computing the loss and its gradient" if memory.peak == LOSS else f"during {memory.peak}"


def describe_allocator(memory: MemoryEstimate) -> str:
    """Return what torch and nvidia-smi show of the total."""
    allocated, reserved = show_bytes(memory.allocated or 0), show_bytes(memory.reserved or 0)
    return f"shown by nvidia-smi; torch allocates {allocated} and reserves {reserved}"


def describe_host(memory: MemoryEstimate, gpus: int) -> str:
    """Return the host memory that a run requires; empty for none."""
    if not memory.host:
        return ""
    limit = "up to" if memory.pageable else "at least"
    machine = "" if gpus == 1 else f" for each GPU, {show_bytes(gpus * memory.host)} for all"
    return f"{limit} {show_bytes(memory.host)}{machine}, besides that of the program and the data"


def is_tight(memory: MemoryEstimate) -> bool:
    """Return whether the interval of the estimate crosses the limit."""
    return memory.available is not None and memory.total is not None and memory.fits is None


def describe_fit(memory: MemoryEstimate, situation: Situation) -> Text:
    """Return whether a run fits, in a sentence; the size of the model is known."""
    limit = _describe_limit(memory, situation)
    if memory.total is None or memory.interval is None:
        size = show_bytes(memory.model_states or 0)
        if memory.fits is False:
            return _emphasize(
                "*Does not fit*", f": weights, gradients and optimizer state alone are {size} of {limit}."
            )
        of_limit = "" if memory.available is None else f" of {limit}"
        unknown = "activations are unknown without the model's dimensions"
        return Text(f"Weights, gradients and optimizer state: {size}{of_limit}; {unknown}.")
    total, interval = f"*{show_bytes(memory.total)}*", f" (likely range {format_interval(memory.interval)})"
    per_gpu = " on each GPU" if situation.gpus > 1 else ""
    if memory.available is None:
        samples = ""
        if situation.micro_batch is None and situation.batch_size is not None:
            samples = " for a micro-batch of one sample"
        elif "micro_batch" in situation.derived and (situation.micro_batch or 1) > 1:
            samples = " with the whole batch in one micro-batch"
        return _emphasize(
            "Requires about ", total, f"{per_gpu}{samples}{interval}; add --gpu or --vram to check the fit."
        )
    is_likely = memory.total - memory.pageable <= memory.available
    if memory.fits or (memory.fits is None and is_likely):
        verdict = "Fits" if memory.fits else "Probably fits"
        if memory.total > memory.available:
            return _describe_paging(verdict, memory.total, memory.available, f"{interval}{per_gpu}", limit)
        return _emphasize(f"*{verdict}*", ": ", total, f" of {limit}{interval}.")
    verdict = "*Does not fit*" if memory.fits is False else "*Probably does not fit*"
    paged = f", of which {show_bytes(memory.pageable)} can move to host memory" if memory.pageable else ""
    return _emphasize(verdict, ": requires ", total, f"{per_gpu}{interval}{paged}; available {limit}.")


def _describe_paging(verdict: str, total: int, available: int, details: str, limit: str) -> Text:
    """Describe a run that fits because a part of the optimizer state moves to host memory.

    Args:
        details: Interval and number of GPUs of the total.
    """
    paged = f", of which at least {show_bytes(total - available)} (optimizer state) moves to host memory"
    return _emphasize(
        f"*{verdict} with paging*", ": peak ", f"*{show_bytes(total)}*", f"{details}{paged}; available {limit}."
    )


def _describe_limit(memory: MemoryEstimate, situation: Situation) -> str:
    limit = show_bytes(memory.available or 0)
    if situation.gpus > 1:
        return f"{limit} on each {situation.gpu or 'GPU'}"
    return f"{limit} on {situation.gpu}" if situation.gpu else limit


def _emphasize(*parts: str) -> Text:
    """Join parts of a sentence; a part within asterisks is bold."""
    return Text.assemble(*((part[1:-1], "bold") if part.startswith("*") else part for part in parts))


def describe_unknown_memory(available: int | None) -> str:
    """Describe the memory of a model of unknown size: the limit, or the options to add."""
    if available is None:
        return "Unknown; add --params, and --gpu or --vram to check the fit."
    return f"Unknown; add --params to check the fit in {show_bytes(available)}."


def describe_sized_run(size: MaxModelSize) -> str:
    """Return the run for which the largest model fits: `micro-batch 1, 2,048 tokens, no checkpointing`."""
    sharding = f", {format_sharding(size.shard)}" if size.gpus > 1 else ""
    if size.seq_len:
        length = f"{size.seq_len:,} tokens"
    elif size.image_size:
        length = f"{size.image_size:,} px"
    else:
        return f"with a share reserved for activations{sharding}"
    checkpointing = "no" if size.checkpointing == "none" else size.checkpointing
    return f"micro-batch {size.micro_batch:,}, {length}, {checkpointing} checkpointing{sharding}"


def has_fixes(answer: MemoryAnswer) -> bool:
    """Return whether a run does not fit for certain, so that its fixes, or the lack of fixes, are printed."""
    if answer.situation.vram_bytes is None or answer.memory.model_states is None or answer.memory.fits is True:
        return False
    return bool(answer.fixes) or answer.memory.fits is False


def describe_chain(chain: tuple[Fix, ...]) -> str:
    """Return what a chain of fixes leads to: `peak 19.8 GiB (plus 13.2 GiB paged to host memory) with all three`."""
    end = chain[-1]
    pageable = f" (plus {show_bytes(end.pageable)} paged to host memory)" if end.pageable else ""
    count = {1: "", 2: " both", 3: " all three", 4: " all four", 5: " all five"}.get(len(chain), f" all {len(chain)}")
    return f"peak {show_bytes(end.needs)}{pageable} with{count}"
