"""Several GPUs: what they send each other in a step, and what more of them would pay."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import MemoryAnswer, Scaling, Situation, Traffic
from optadvise.core.units import show_bytes
from optadvise.render.text.console import grid, heading, paragraph, titled

_OF = {"weights": "weights", "updated": "updated weights", "gradients": "gradients"}


def several(out: Console, answer: MemoryAnswer) -> None:
    """Print what a run over several GPUs sends, and the same run on other numbers of them; nothing for one GPU."""
    if answer.traffic is not None:
        _sent(out, answer.traffic)
    if answer.scaling is not None:
        _scales(out, answer.scaling, answer.situation)


def _sent(out: Console, found: Traffic) -> None:
    passes = "1 pass" if found.passes == 1 else f"{found.passes:,} passes"
    out.print(heading(f"Between GPUs, derived: each sends {show_bytes(found.sent)} in a step of {passes}"))
    table = grid("right", "right", "wrap")
    for one in found.collectives:
        times = "once" if one.times == 1 else f"{one.times:,} ×"
        words = f"{one.operation} of {show_bytes(one.bytes)} of {_OF[one.of]} {one.when}"
        table.add_row("", show_bytes(one.sent), times, words)
    out.print(table)
    rings = "By rings, in which each GPU sends all but its own share" + (
        ", an all-reduce twice." if any(one.operation == "all-reduce" for one in found.collectives) else "."
    )
    note = f" {found.note}." if found.note else ""
    out.print(paragraph(f"{escape(rings + note)} [dim]\\[{', '.join(found.cite)}][/dim]"))


def _scales(out: Console, found: Scaling, situation: Situation) -> None:
    limited, shaped = situation.vram_bytes is not None, found.sample_bytes is not None
    copied = any(one.master_bytes for one in found.scales)
    out.print(heading("On other numbers of GPUs, what is expected of each"))
    columns = [("GPUs", "right"), ("state", "right"), *([("master copy", "right")] if copied else [])]
    columns += [("total", "right")] if shaped else []
    columns += [("fits", "left"), ("largest", "right")] if limited and shaped else []
    table = titled(2, *columns, ("pass", "right"), ("sends", "right"))
    for one in found.scales:
        row = [f"{one.gpus:,}", show_bytes(one.optimizer_bytes), *([show_bytes(one.master_bytes)] if copied else [])]
        row += [show_bytes(one.total or 0)] if shaped else []
        if limited and shaped:
            row += [{True: "yes", False: "no", None: "perhaps"}[one.fits]]
            row += [f"{one.largest_pass:,}" if one.largest_pass else "–"]
        row += [f"{one.micro_batch:,}", show_bytes(one.sent)]
        table.add_row("", *(f"[bold]{cell}[/bold]" if one.gpus == situation.gpus else cell for cell in row))
    out.print(table)
    if found.enough is not None:
        sample, what = show_bytes(found.sample_bytes or 0), "state and master copy" if copied else "state"
        begin = "More GPUs never" if found.enough == 1 else f"From {found.enough:,} GPUs on, more of them do not"
        words = f"{begin} pay for optimizer state: doubling them frees less of {what} than the {sample}"
        out.print(paragraph(f"{words} that one more sample of a pass keeps."))
