"""Several GPUs: what they send each other in a step, and what more of them would pay."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from optadvise.domain import MemoryAnswer, Scaling, Traffic
from optadvise.render.console import grid, heading, paragraph, titled
from optadvise.units import show_bytes

_OF = {"weights": "weights", "updated": "updated weights", "gradients": "gradients"}


def several(out: Console, answer: MemoryAnswer) -> None:
    """Print what a run over several GPUs sends, and the same run on other numbers of them; nothing for one GPU."""
    if answer.traffic is not None:
        _sent(out, answer.traffic)
    if answer.scaling is not None:
        _scales(out, answer.scaling, answer)


def _sent(out: Console, found: Traffic) -> None:
    passes = "1 pass" if found.passes == 1 else f"{found.passes:,} passes"
    out.print(heading(f"Between GPUs, derived: each sends {show_bytes(found.sent)} in a step of {passes}"))
    table = grid("right", "right", "wrap")
    for one in found.collectives:
        times = "once" if one.times == 1 else f"{one.times:,} ×"
        words = f"{one.operation} of {show_bytes(one.bytes)} of {_OF[one.of]} {one.when}"
        table.add_row("", show_bytes(one.sent), times, words)
    out.print(table)
    note = "Rings send all but one GPU's share, an all-reduce twice." + (f" {found.note}." if found.note else "")
    out.print(paragraph(f"{escape(note)} [dim]\\[{', '.join(found.cite)}][/dim]"))


def _scales(out: Console, found: Scaling, answer: MemoryAnswer) -> None:
    situation = answer.situation
    copied = any(line.part == "master copy" for line in answer.memory.ledger)
    limited, shaped = situation.vram_bytes is not None, found.sample_bytes is not None
    with_copy = "; state with the master copy" if copied else ""
    out.print(heading(f"The same run on other numbers of GPUs, by what is expected of one{with_copy}"))
    columns = [
        ("GPUs", "right"),
        ("state", "right"),
        *([("total", "right")] if shaped else []),
    ]
    columns += [("fits", "left")] if limited else []
    columns += [("largest pass", "right")] if limited and shaped else []
    table = titled(2, *columns, ("its pass", "right"), ("it sends", "right"))
    for one in found.scales:
        row = [f"{one.gpus:,}", show_bytes(one.optimizer_bytes)]
        row += [show_bytes(one.total or 0)] if shaped else []
        row += [{True: "yes", False: "no", None: "perhaps"}[one.fits]] if limited else []
        row += [f"{one.largest_pass:,}" if one.largest_pass else "–"] if limited and shaped else []
        row += [f"{one.micro_batch:,}", show_bytes(one.sent)]
        table.add_row("", *(f"[bold]{cell}[/bold]" if one.gpus == situation.gpus else cell for cell in row))
    out.print(table)
    if found.enough is not None:
        gpus = "1 GPU" if found.enough == 1 else f"{found.enough:,} GPUs"
        sample = show_bytes(found.sample_bytes or 0)
        words = f"From {gpus} on, more of them stop paying for optimizer state: a doubling frees less of it"
        out.print(paragraph(f"{words} than the {sample} that one more sample of a pass keeps."))
