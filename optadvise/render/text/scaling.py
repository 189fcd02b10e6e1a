"""Communication between GPUs, and the same run on other numbers of GPUs, as text."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from optadvise.core.records import MemoryAnswer, Scaling, Traffic
from optadvise.core.units import show_bytes
from optadvise.render.labels import format_count, format_fits, format_sentence
from optadvise.render.text.console import print_paragraph, print_section

_CONTENTS = {"weights": "weights", "updated": "updated weights", "gradients": "gradients"}


def print_scaling(out: Console, answer: MemoryAnswer) -> None:
    """Print the communication of a run over several GPUs, and other numbers of GPUs; nothing for one GPU."""
    if answer.traffic is not None:
        _print_traffic(out, answer.traffic)
    if answer.scaling is not None:
        _print_scales(out, answer.scaling, answer)


def _print_traffic(out: Console, traffic: Traffic) -> None:
    rows = []
    for collective in traffic.collectives:
        times = "once" if collective.times == 1 else f"{collective.times:,} ×"
        contents = f"{show_bytes(collective.bytes)} of {_CONTENTS[collective.of]}"
        rows.append((show_bytes(collective.sent), times, f"{collective.operation} of {contents} {collective.when}"))
    micro_batches = "1 micro-batch" if traffic.passes == 1 else f"{traffic.passes:,} micro-batches"
    sent = f"each GPU sends {show_bytes(traffic.sent)} per step of {micro_batches}"
    print_section(out, f"Communication (estimated): {sent}", rows, "right", "right", "wrap")
    is_reducing = any(collective.operation == "all-reduce" for collective in traffic.collectives)
    rings = "Ring algorithms: each GPU sends all but its own shard" + (
        ", in an all-reduce twice." if is_reducing else "."
    )
    note = f" {format_sentence(traffic.note)}" if traffic.note else ""
    print_paragraph(out, f"{escape(rings + note)} [dim]\\[{', '.join(traffic.cite)}][/dim]")


def _print_scales(out: Console, scaling: Scaling, answer: MemoryAnswer) -> None:
    situation = answer.situation
    has_shape = scaling.sample_bytes is not None
    is_limited = situation.vram_bytes is not None and has_shape
    has_copy = any(scale.master_bytes for scale in scaling.scales)
    columns = [("GPUs", "right"), ("state", "right"), *([("master\ncopy", "right")] if has_copy else [])]
    columns += [("total", "right")] if has_shape else []
    columns += [("fits", "fold")] if is_limited else []
    columns += [("micro-\nbatch", "right"), *([("largest\nmicro-batch", "right")] if is_limited else [])]
    columns += [("sent\nper step", "right")]
    rows = []
    for scale in scaling.scales:
        row = [f"{scale.gpus:,}", show_bytes(scale.optimizer_bytes)]
        row += [show_bytes(scale.master_bytes)] if has_copy else []
        row += [show_bytes(scale.total or 0)] if has_shape else []
        required = None if scale.total is None else scale.total - scale.pageable
        row += [format_fits(scale.fits, required, situation.vram_bytes)] if is_limited else []
        row += [f"{scale.micro_batch:,}", *([format_count(scale.largest_micro_batch)] if is_limited else [])]
        row += [show_bytes(scale.sent)]
        rows.append([f"[bold]{cell}[/bold]" if scale.gpus == situation.gpus else cell for cell in row])
    print_section(out, "Other numbers of GPUs (estimated)", rows, *columns)
    if scaling.enough is not None and answer.memory.fits is not False:
        begin = f"Beyond {scaling.enough:,} GPUs, doubling" if scaling.enough > 1 else "Doubling"
        sample = show_bytes(scaling.sample_bytes or 0)
        print_paragraph(
            out,
            f"{begin} the number of GPUs frees less memory on each than one more sample of the micro-batch requires "
            f"({sample}).",
        )
