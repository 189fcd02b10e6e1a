"""`optadvise recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.errors import InputError, nearest

_FORMATS = ("text", "json", "python")


def _option(help_: str, *names: str, group: str = "The run") -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=group, show_default=False)


def recommend(
    model: Annotated[str | None, _option("transformer, vit, cnn, rnn, mlp, gnn, gan, diffusion, rl or recsys.")] = None,
    task: Annotated[str | None, _option("pretrain (from scratch) or finetune.")] = None,
    method: Annotated[str | None, _option("full, lora or qlora.")] = None,
    params: Annotated[str | None, _option("Size of the whole model: 7B, 350M, 124e6.")] = None,
    lora_rank: Annotated[str | None, _option("Rank of the adapters; 16 unless said.")] = None,
    vram: Annotated[
        str | None, _option("Memory of one GPU: 24GB (as GPU makers count, 24 GiB), 800MB, or auto for the GPU here.")
    ] = None,
    gpu: Annotated[str | None, _option('Its name instead: "rtx 4090", a100, h100.')] = None,
    gpus: Annotated[str | None, _option("How many.")] = None,
    batch_size: Annotated[
        str | None, _option("Samples per optimizer step, over all GPUs and accumulation: 256, 8K is 8000.")
    ] = None,
    micro_batch: Annotated[str | None, _option("Samples per forward pass on one GPU.")] = None,
    precision: Annotated[str | None, _option("fp32, amp-bf16, amp-fp16 or bf16.")] = None,
    stability: Annotated[str | None, _option("stable, or spikes if the loss spikes.")] = None,
    tuning: Annotated[str | None, _option("low or high: how much tuning is affordable.")] = None,
    priority: Annotated[str | None, _option("balanced, accuracy, memory or speed.")] = None,
    sparse_gradients: Annotated[bool, _option("Embeddings give sparse gradients.", "--sparse-gradients")] = False,
    shard: Annotated[str | None, _option("none, zero1, zero2 or zero3 over the GPUs.")] = None,
    optimizer: Annotated[str | None, _option("Take this one instead of choosing.")] = None,
    steps: Annotated[str | None, _option("Optimizer steps of the whole run: 100K.")] = None,
    rules: Annotated[list[Path] | None, _option("A folder of further rules; may repeat.", "--rules")] = None,
    format_: Annotated[str, _option("text, json or python.", "--format", group="Output")] = "text",
    json_: Annotated[bool, _option("Short for --format json.", "--json", group="Output")] = False,
    explain: Annotated[bool, _option("Show how each number came to be.", "--explain", group="Output")] = False,
) -> None:
    """Recommend an optimizer and a schedule, with numbers, reasons and sources.

    What is not said is assumed, listed, and the answer tells where it would change.
    """
    typed = {
        "model": model, "task": task, "method": method, "params": params, "lora_rank": lora_rank, "vram": vram,
        "gpu": gpu, "gpus": gpus, "batch_size": batch_size, "micro_batch": micro_batch, "precision": precision,
        "stability": stability, "tuning": tuning, "priority": priority, "sparse_gradients": sparse_gradients,
        "shard": shard, "optimizer": optimizer, "steps": steps,
    }  # fmt: skip
    shape = format_.strip().lower()
    if json_ and shape not in ("text", "json"):
        raise InputError(f"--json --format {format_}: both say how to print; give one of them")
    shape = "json" if json_ else shape
    if shape not in _FORMATS:
        raise InputError(f"--format {format_!r}: not known; {nearest(shape, _FORMATS)}")

    from optadvise.advisor import Advisor
    from optadvise.catalog import load
    from optadvise.cli import answers

    advisor = Advisor(load(rules or ()))
    advice = advisor.recommend(advisor.situation(answers.read(advisor.catalog, typed)))
    if shape == "json":
        from optadvise.render.json import recommendation

        typer.echo(recommendation(advice))
    elif shape == "python":
        from optadvise.codegen.python import plain_torch

        typer.echo(plain_torch(advice), nl=False)
    else:
        from optadvise.render.advice import text

        text(advice, advisor.catalog, explain=explain)
