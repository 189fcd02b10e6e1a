"""Memory estimate as text: fit, breakdown with bars, fixes, and every optimizer in the run's place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import Fit, MemoryAnswer, MemoryEstimate, Situation
from optadvise.core.units import show_bytes, show_count
from optadvise.memory.inputs import ESTIMATE_FACTS
from optadvise.render.labels import FIT_LABELS, format_count, format_options, format_size
from optadvise.render.memory import describe_allocator, describe_fit, has_fixes, list_breakdown
from optadvise.render.text.console import Page, format_heading, print_paragraph, print_rows, print_section
from optadvise.render.text.scaling import print_scaling
from optadvise.render.text.situation import print_assumptions
from optadvise.rulebase.catalog import Catalog

_BAR_COLUMNS = 9
_EIGHTHS = " ▏▎▍▌▋▊▉"


def print_estimate(answer: MemoryAnswer, catalog: Catalog, *, everything: bool) -> None:
    """Print an estimate.

    Args:
        everything: Print each optimizer on a line of its own.
    """
    with Page() as out:
        _print_title(out, answer, catalog)
        print_breakdown(out, answer.memory)
        _print_largest(out, answer)
        print_scaling(out, answer)
        print_fixes(out, answer, catalog)
        _print_ranking(out, answer, everything=everything)
        print_assumptions(out, answer.situation, catalog, only={*ESTIMATE_FACTS, "optimizer", "task"})


def _print_title(out: Console, answer: MemoryAnswer, catalog: Catalog) -> None:
    situation = answer.situation
    network = f"{show_count(situation.params or 0)} parameters"
    if situation.shape is not None:
        network = f"{situation.shape.name}, {network}"
    optimizer = catalog.optimizer(answer.optimizer).name
    out.print(f"[bold]{escape(network)}[/bold] with {escape(optimizer)}, {_describe_run(situation)}")
    print_paragraph(out, describe_fit(answer.memory, situation))


def _describe_run(situation: Situation) -> str:
    precision = situation.precision if situation.method == "full" else f"{situation.method} in {situation.precision}"
    size = situation.seq_len or situation.image_size
    parts = [precision, f"passes of {situation.micro_batch or 1}" + (f" × {size}" if size else "")]
    if situation.gpus > 1:
        parts.append(f"{situation.gpus} GPUs" + ("" if situation.shard == "none" else f", {situation.shard}"))
    return ", ".join(parts)


def print_breakdown(out: Console, memory: MemoryEstimate) -> None:
    """Print what the memory of one GPU is made of."""
    rows = list_breakdown(memory)
    if memory.total is None:
        sizes = ((row.part, "not known" if row.size_bytes is None else show_bytes(row.size_bytes)) for row in rows)
        out.print(format_heading("Memory of one GPU, derived"))
        cells = [(*size, row.note) for size, row in zip(sizes, rows, strict=True)]
        print_rows(out, cells, "left", "right", "wrap")
        return
    out.print(format_heading(f"Memory of one GPU, derived; highest in {memory.peak}"))
    largest = max((row.size_bytes or 0 for row in rows), default=1) or 1
    table = [
        (row.part, format_size(row.size_bytes), format_bar((row.size_bytes or 0) / largest), escape(row.note))
        for row in rows
    ]
    total = ("[bold]total[/bold]", f"[bold]{show_bytes(memory.total)}[/bold]", "", describe_allocator(memory))
    print_rows(out, [*table, total], ("", "left"), ("at the peak", "right"), ("", "left"), ("", "wrap"))


def format_bar(fraction: float, columns: int = _BAR_COLUMNS) -> str:
    """Return a bar of block characters.

    Example:
        >>> format_bar(0.5, 4)
        '██'
    """
    eighths = round(fraction * columns * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _print_largest(out: Console, answer: MemoryAnswer) -> None:
    if answer.largest_micro_batch_by_gpu:
        _print_gpus(out, answer.largest_micro_batch_by_gpu)
    largest = answer.largest_micro_batch
    if largest is None:
        return
    text = f"{largest:,} sample{'s' if largest > 1 else ''} in one pass" if largest else "not even one sample in a pass"
    if answer.longest_sequence:
        text += f", or samples of {answer.longest_sequence:,} tokens in passes of {answer.situation.micro_batch or 1}"
    out.print(format_heading("Largest that fits, by what is expected"))
    print_paragraph(out, text)


def _print_gpus(out: Console, micro_batches: Mapping[str, int]) -> None:
    cells = [format_count(largest) for largest in micro_batches.values()]
    columns = [(gpu, "right") for gpu in micro_batches]
    print_section(out, "Samples in one pass on usual GPUs, by what is expected", [cells], *columns)


def print_fixes(out: Console, answer: MemoryAnswer, catalog: Catalog, *, name_optimizer: bool = False) -> None:
    """Print the changes after which a run fits, the cheapest first.

    Args:
        name_optimizer: Name the optimizer of the figures, as another command may choose another.
    """
    if not has_fixes(answer):
        return
    out.print(format_heading("What would make it fit, the cheapest first"))
    if not answer.fixes:
        print_paragraph(
            out, "Nothing among the changes that are known here; a smaller network, or GPUs with more memory."
        )
    elif "optimizer" in answer.situation.assumed and name_optimizer:
        out.print(f"  Each with --optimizer {answer.optimizer}, unless it names another.")
    for number, chain in enumerate(answer.fixes, 1):
        paged = f", and {show_bytes(chain[-1].pageable)} that may be paged out," if chain[-1].pageable else ""
        out.print(f"  {number}. [bold]{show_bytes(chain[-1].needs)}[/bold]{paged} with")
        rows = []
        for fix in chain:
            replaced = f"instead of {format_options(catalog, fix.instead)}; " if fix.instead else ""
            effect = escape(f"{replaced}saves {show_bytes(fix.saves)}; costs {fix.costs}")
            change = escape(format_options(catalog, fix.change))
            rows.append((change, f"{effect} [dim]\\[{', '.join(fix.cite)}][/dim]"))
        print_rows(out, rows, "left", "wrap", indent=5)


def _print_ranking(out: Console, answer: MemoryAnswer, *, everything: bool) -> None:
    is_limited, has_tokens = answer.situation.vram_bytes is not None, answer.situation.seq_len is not None
    columns = [("", "fold"), ("state", "right"), ("total", "right")]
    columns += [("fits", "left"), ("largest pass", "right")] if is_limited else [("", "left")]
    columns += [("longest", "right")] if is_limited and has_tokens else []
    rows = []
    for names, fit in _group_fits(answer.optimizers, everything):
        total = fit.total if fit.total is not None else fit.model_states
        row = [names, format_size(fit.optimizer_bytes), "not known" if total is None else show_bytes(total)]
        if is_limited:
            row += [FIT_LABELS[fit.fits] + (", breaks" if fit.breaks else ""), format_count(fit.largest_micro_batch)]
        else:
            row += ["breaks" if fit.breaks else ""]
        rows.append(row + ([format_count(fit.longest_sequence)] if is_limited and has_tokens else []))
    out.print(
        format_heading(
            "Every optimizer in its place" if everything else "Optimizers in its place, those alike on one line"
        )
    )
    print_rows(out, rows, *columns)
    if any(fit.breaks for fit in answer.optimizers):
        print_paragraph(out, "breaks: fails or computes something else where it is sharded so; optadvise show says how")


def _group_fits(fits: Iterable[Fit], everything: bool) -> Iterable[tuple[str, Fit]]:
    """Yield the names and one fit of each run of optimizers whose rows read alike."""

    def key(fit: Fit) -> tuple[object, ...]:
        sizes = (
            None if size is None else show_bytes(size) for size in (fit.optimizer_bytes, fit.total, fit.model_states)
        )
        return (
            (fit.id,)
            if everything
            else (*sizes, fit.fits, fit.largest_micro_batch, fit.longest_sequence, fit.basis, fit.breaks)
        )

    for _, group in groupby(fits, key=key):
        members = list(group)
        yield ", ".join(fit.id for fit in members), members[0]
