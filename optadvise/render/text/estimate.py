"""Memory estimate as text: fit, breakdown with bars, fixes, and every optimizer for the same run."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from optadvise.advice.batch_and_steps import is_uneven
from optadvise.core.records import Fix, MemoryAnswer, MemoryEstimate, Situation
from optadvise.core.units import show_bytes, show_count
from optadvise.memory.inputs import ESTIMATE_FACTS
from optadvise.render import headings
from optadvise.render.labels import format_count, format_fits, format_options, format_size
from optadvise.render.memory import (
    describe_allocator,
    describe_chain,
    describe_fit,
    describe_host,
    describe_peak,
    has_fixes,
    list_breakdown,
)
from optadvise.render.text.console import (
    Page,
    format_heading,
    print_labelled,
    print_paragraph,
    print_rows,
    print_section,
)
from optadvise.render.text.scaling import print_scaling
from optadvise.render.text.situation import print_assumptions
from optadvise.rulebase.catalog import Catalog

_BAR_COLUMNS = 9
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SHORT_CHAINS = 2  # of fixes in the short answer
_NO_FIX = "No known change makes it fit. Use a smaller model or GPUs with more memory."
_NO_SEARCH = (
    "No changes are searched for with --workload. Smaller batches, another --precision, or an --optimizer with less"
    " state (--all lists them) may make it fit."
)
_PAGED = "paged: optimizer state moves to host memory if the GPU is full, so the fit does not count it."
_PROBABLY = (
    "probably: the limit is within the likely range, whose high end is for PyTorch's foreach step where it is the"
    " default (fused=True needs less)."
)
_BREAKS = "step fails: it raises an error, or computes something else, with this sharding; see optadvise show NAME."


def print_estimate(answer: MemoryAnswer, catalog: Catalog, *, everything: bool) -> None:
    """Print an estimate.

    Args:
        everything: Print a table of all optimizers too.
    """
    with Page() as out:
        _print_title(out, answer, catalog)
        print_breakdown(out, answer.memory)
        _print_largest(out, answer)
        print_scaling(out, answer)
        print_fixes(out, answer, catalog)
        if everything:
            _print_optimizers(out, answer)
        print_assumptions(out, answer.situation, catalog, only={*ESTIMATE_FACTS, "optimizer", "task"})
        if not everything and answer.optimizers:
            out.print("\nAdd --all for other optimizers.")


def _print_title(out: Console, answer: MemoryAnswer, catalog: Catalog) -> None:
    situation = answer.situation
    model = f"{show_count(situation.params or 0)} parameters"
    if situation.shape is not None:
        model = f"{situation.shape.name}, {model}"
    optimizer = catalog.optimizer(answer.optimizer).name
    out.print(f"[bold]{escape(model)}[/bold] with {escape(optimizer)}, {_describe_run(situation)}")
    print_paragraph(out, describe_fit(answer.memory, situation))


def _describe_run(situation: Situation) -> str:
    precision = situation.precision if situation.method == "full" else f"{situation.method} in {situation.precision}"
    size = ""
    if situation.seq_len:
        size = f" × {situation.seq_len:,} tokens"
    elif situation.image_size:
        size = f" × {situation.image_size:,} px"
    parts = [precision, f"micro-batch {situation.micro_batch or 1:,}{size}"]
    if situation.gpus > 1:
        parts.append(f"{situation.gpus} GPUs" + ("" if situation.shard == "none" else f", {situation.shard}"))
    if is_uneven(situation):
        parts.append(f"effective batch {situation.batch_size:,}, rounded up on each GPU")
    return ", ".join(parts)


def print_breakdown(out: Console, memory: MemoryEstimate) -> None:
    """Print the parts of the memory of one GPU, each with its arithmetic."""
    rows = list_breakdown(memory)
    if memory.total is None:
        cells = [(row.part, _format_known(row.size_bytes), escape(row.note)) for row in rows]
        print_section(out, f"{headings.MEMORY} (estimated)", cells, "left", "right", "wrap")
        return
    out.print(format_heading(f"{headings.PEAK_MEMORY} (estimated), {describe_peak(memory)}"))
    largest = max((row.size_bytes or 0 for row in rows), default=1) or 1
    table = [
        (row.part, format_size(row.size_bytes), format_bar((row.size_bytes or 0) / largest), escape(row.note))
        for row in rows
    ]
    total = ("[bold]total[/bold]", f"[bold]{show_bytes(memory.total)}[/bold]", "", describe_allocator(memory))
    print_rows(out, [*table, total], ("", "left"), ("size", "right"), ("", "left"), ("", "wrap"))


def _format_known(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else show_bytes(size_bytes)


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
    host = describe_host(answer.memory, answer.situation.gpus)
    rows = [("Host memory", host)] if host else []
    if largest is not None:
        rows += _list_largest(answer, largest)
    if rows:
        out.print()
        print_labelled(out, rows)


def _list_largest(answer: MemoryAnswer, largest: int) -> list[tuple[str, str]]:
    """Return the largest micro-batch and the longest sequence that fit."""
    rows = [("Largest micro-batch", f"{largest:,}" if largest else "none, not even 1 fits")]
    if answer.longest_sequence:
        micro_batch = answer.situation.micro_batch or 1
        rows.append(("Longest sequence", f"{answer.longest_sequence:,} tokens at micro-batch {micro_batch:,}"))
    return rows


def _print_gpus(out: Console, micro_batches: Mapping[str, int]) -> None:
    cells = [format_count(largest) for largest in micro_batches.values()]
    columns = [(gpu, "right") for gpu in micro_batches]
    print_section(out, "Largest micro-batch by GPU", [cells], *columns)


def print_fixes(
    out: Console, answer: MemoryAnswer, catalog: Catalog, *, name_optimizer: bool = False, is_short: bool = False
) -> None:
    """Print the changes after which a run fits, the cheapest first.

    Args:
        name_optimizer: Name the optimizer of the figures, as another command may choose another.
        is_short: Print the first two chains alone, and of each change its main cost.
    """
    if not has_fixes(answer):
        return
    chains = answer.fixes[:_SHORT_CHAINS] if is_short else answer.fixes
    title = headings.FIXES
    if name_optimizer and "optimizer" in answer.situation.assumed:
        choices = " and the choices above" if answer.situation.chosen else ""
        title = title.replace("(", f"(with {answer.optimizer}{choices} unless changed, ")
    if len(answer.fixes) > len(chains):
        title = title.replace(")", f"; {len(chains)} of {len(answer.fixes)})")
    out.print(format_heading(title))
    if not chains:
        print_paragraph(out, _NO_FIX if answer.measured is None else _NO_SEARCH)
    for number, chain in enumerate(chains, 1):
        _print_chain(out, number, chain, catalog, is_short=is_short)


def _print_chain(out: Console, number: int, chain: tuple[Fix, ...], catalog: Catalog, *, is_short: bool) -> None:
    """Print a chain of fixes; in the short answer, a single fix takes one line."""

    def describe(fix: Fix) -> str:
        return _describe_cost(fix, catalog) if is_short else _describe_fix(fix, catalog)

    end = describe_chain(chain)
    reason = _explain_optimizer(chain) if is_short else ""
    rows = [(escape(format_options(catalog, fix.change)), describe(fix)) for fix in chain]
    if is_short and len(rows) == 1:
        ((options, cost),) = rows
        separator = " " if chain[0].instead else "; "
        print_rows(out, [(f"[bold]{number}.[/bold]", f"{end} {options}{reason}{separator}{cost}")], "left", "wrap")
        return
    out.print(f"  [bold]{number}.[/bold]  {end}{reason}:")
    print_rows(out, rows, "left", "wrap", indent=6)


def _explain_optimizer(chain: tuple[Fix, ...]) -> str:
    """Return why a chain that adds GPUs replaces the optimizer, the last clause of its cost; empty if it does not."""
    reasons = [fix.costs.rpartition("; ")[2] for fix in chain if {"gpus", "optimizer"} <= fix.change.keys()]
    return "".join(f" ({reason})" for reason in reasons)


def _describe_fix(fix: Fix, catalog: Catalog) -> str:
    """Return, as markup, what a fix replaces, saves and costs, with its sources."""
    replaced = f"instead of {format_options(catalog, fix.instead)}; " if fix.instead else ""
    effect = f"{replaced}saves {show_bytes(fix.saves)}; cost: {fix.costs.rstrip('.')}"
    return f"{escape(effect)} [dim]\\[{', '.join(fix.cite)}][/dim]"


def _describe_cost(fix: Fix, catalog: Catalog) -> str:
    """Return, as markup, what a fix replaces, and the first clause of its cost."""
    replaced = f"instead of {format_options(catalog, fix.instead)}; " if fix.instead else ""
    return escape(f"{replaced}cost: {fix.costs.split(';')[0].rstrip('.')}")


def _print_optimizers(out: Console, answer: MemoryAnswer) -> None:
    is_limited, has_tokens = answer.situation.vram_bytes is not None, answer.situation.seq_len is not None
    columns = [("", "fold"), ("state", "right"), ("total", "right")]
    columns += [("fits", "left"), ("micro-batch", "right")] if is_limited else [("", "left")]
    columns += [("tokens", "right")] if is_limited and has_tokens else []
    rows = []
    for fit in answer.optimizers:
        total = fit.total if fit.total is not None else fit.model_states
        row = [fit.id, format_size(fit.optimizer_bytes), _format_known(total)]
        if is_limited:
            required = None if fit.total is None else fit.total - fit.pageable
            fits = format_fits(fit.fits, required, answer.situation.vram_bytes)
            is_paged = fits in ("yes", "probably") and fit.pageable > 0
            fits += ", paged" * is_paged
            row += ["step fails" if fit.breaks else fits, format_count(fit.largest_micro_batch)]
        else:
            row += ["step fails" if fit.breaks else ""]
        rows.append(row + ([format_count(fit.longest_sequence)] if is_limited and has_tokens else []))
    limits = _describe_limits(answer.situation)
    out.print(format_heading(headings.OPTIMIZERS + (f" ({limits})" if is_limited else "")))
    print_rows(out, rows, *columns)
    if any("probably" in cell for row in rows for cell in row[1:]):
        print_paragraph(out, _PROBABLY)
    if any("paged" in cell for row in rows for cell in row[1:]):
        print_paragraph(out, _PAGED)
    if any(fit.breaks for fit in answer.optimizers):
        print_paragraph(out, _BREAKS)


def _describe_limits(situation: Situation) -> str:
    """Return what the largest micro-batch and the longest sequence of the table refer to; each is for itself."""
    if situation.seq_len is not None:
        micro_batch = situation.micro_batch or 1
        return f"largest micro-batch at {situation.seq_len:,} tokens; longest sequence at micro-batch {micro_batch:,}"
    pixels = f" at {situation.image_size:,} px" if situation.image_size else ""
    return f"largest micro-batch{pixels}"
