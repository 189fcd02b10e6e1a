"""`optadvise recommend`."""

from __future__ import annotations

from typing import Annotated

import typer

from optadvise.cli import options as opt
from optadvise.errors import InputError, nearest

_FORMATS = ("text", "json", "python")


def recommend(
    model: opt.Model = None,
    task: opt.Task = None,
    method: opt.Method = None,
    lora_rank: opt.LoraRank = None,
    lora_targets: opt.LoraTargets = None,
    vram: opt.Vram = None,
    gpu: opt.Gpu = None,
    gpus: opt.Gpus = None,
    batch_size: opt.BatchSize = None,
    micro_batch: opt.MicroBatch = None,
    precision: opt.Precision = None,
    shard: opt.Shard = None,
    stability: Annotated[str | None, opt.option("stable, or spikes if the loss spikes.")] = None,
    tuning: Annotated[str | None, opt.option("low or high: how much tuning is affordable.")] = None,
    priority: Annotated[str | None, opt.option("balanced, accuracy, memory or speed.")] = None,
    sparse_gradients: Annotated[bool, opt.option("Embeddings give sparse gradients.", "--sparse-gradients")] = False,
    steps: Annotated[str | None, opt.option("Optimizer steps of the whole run: 100K.")] = None,
    optimizer: opt.Optimizer = None,
    params: opt.Params = None,
    arch: opt.Arch = None,
    hf_config: opt.HfConfig = None,
    hidden: opt.Hidden = None,
    layers: opt.Layers = None,
    heads: opt.Heads = None,
    kv_heads: opt.KvHeads = None,
    ffn: opt.Ffn = None,
    vocab: opt.Vocab = None,
    seq_len: opt.SeqLen = None,
    image_size: opt.ImageSize = None,
    checkpointing: opt.Checkpointing = None,
    attention: opt.Attention = None,
    loss: opt.Loss = None,
    gradient_release: opt.GradientRelease = False,
    clipping: opt.Clipping = False,
    offload: opt.Offload = False,
    rules: opt.Rules = None,
    format_: Annotated[str, opt.option("text, json or python.", "--format", group="Output")] = "text",
    json_: opt.Json = False,
    explain: Annotated[
        bool, opt.option("Show what came nearest, and how each number came to be.", "--explain", group="Output")
    ] = False,
    why_not: Annotated[str | None, opt.option("What keeps this one from being the answer?", group="Output")] = None,
    interactive: Annotated[
        bool, opt.option("Ask what would still change the answer.", "--interactive", group="Output")
    ] = False,
) -> None:
    """Recommend an optimizer and a schedule, with numbers, reasons and sources.

    What is not said is assumed, listed, and the answer tells where it would change.
    """
    typed = dict(locals())
    shape = format_.strip().lower()
    if json_ and shape not in ("text", "json"):
        raise InputError(f"--json --format {format_}: both say how to print; give one of them")
    shape = "json" if json_ else shape
    if shape not in _FORMATS:
        raise InputError(f"--format {format_!r}: not known; {nearest(shape, _FORMATS)}")

    from optadvise.cli import answers, ruleset

    advisor = ruleset.advisor(rules)
    said = answers.read(advisor.catalog, typed)
    other = None if why_not is None else advisor.catalog.find_optimizer(why_not, "--why-not")
    if interactive:
        from optadvise.cli.interview import ask

        said = ask(advisor, said, tuple(map(str, rules or ())))
    situation = advisor.situation(said)
    advice = advisor.recommend(situation)
    fit = None
    if advice.memory.fits is not True and situation.params is not None and situation.vram_bytes is not None:
        from optadvise.fitting import Fitter

        run = advice.situation
        if run.optimizer is None:
            run = run._replace(optimizer=advice.optimizer.id, assumed=(*run.assumed, "optimizer"))
        fit = Fitter(advisor).answer(run, ranked=False)
    if shape == "python":
        from optadvise.codegen.python import plain_torch

        typer.echo(plain_torch(advice), nl=False)
        return
    why = None
    if explain or other is not None:
        from optadvise.render.why import Why
        from optadvise.rulebook import why as reasons

        why = Why(
            advisor.axes,
            reasons.decisions(advisor, situation) if explain else (),
            None if other is None else reasons.why_not(advisor, said, other),
        )
    if shape == "json":
        from optadvise.render.json import recommendation

        typer.echo(recommendation(advice, fit, why))
    else:
        from optadvise.render.advice import text

        text(advice, advisor.catalog, fit, why)
