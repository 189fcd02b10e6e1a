"""The options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.cli.complete import Offer, of


def option(help_: str, *names: str, group: str = "The run", words: Offer | None = None) -> Any:
    """Return an option without the clutter of defaults.

    Args:
        help_: Its line of help.
        names: Its spellings, where they are not the parameter's own.
        group: Under which heading the help shows it.
        words: What the shell offers for it.
    """
    return typer.Option(*names, help=help_, rich_help_panel=group, show_default=False, autocompletion=words)


_NET, _MEM, _OUT = "The network", "Memory", "Output"

Model = Annotated[
    str | None, option("transformer, vit, cnn, rnn, mlp, gnn, gan, diffusion, rl or recsys.", words=of("model"))
]
Task = Annotated[str | None, option("pretrain (from scratch) or finetune.", words=of("task"))]
Method = Annotated[str | None, option("full, lora or qlora.", words=of("method"))]
LoraRank = Annotated[str | None, option("Rank of the adapters; 16 unless said.")]
LoraTargets = Annotated[str | None, option("Layers with adapters: all, or names such as q,v.")]
Vram = Annotated[
    str | None, option("Memory of one GPU: 24GB (as GPU makers count, 24 GiB), 800MB, or auto for the GPU here.")
]
Gpu = Annotated[str | None, option('Its name instead: "rtx 4090", a100, h100.', words=of("gpus"))]
Gpus = Annotated[str | None, option("How many.")]
BatchSize = Annotated[
    str | None, option("Samples per optimizer step, over all GPUs and accumulation: 256, 8K is 8000.")
]
MicroBatch = Annotated[str | None, option("Samples per forward pass on one GPU.")]
Precision = Annotated[str | None, option("fp32, amp-bf16, amp-fp16 or bf16.", words=of("precision"))]
Shard = Annotated[str | None, option("none, zero1, zero2 or zero3 over the GPUs.", words=of("shard"))]
Optimizer = Annotated[str | None, option("Take this one instead of choosing.", words=of("optimizers"))]

Params = Annotated[str | None, option("Size of the whole model: 7B, 350M, 124e6.", group=_NET)]
Arch = Annotated[
    str | None, option("A well-known network: llama-3.1-8b, bert-base, resnet50.", group=_NET, words=of("shapes"))
]
HfConfig = Annotated[Path | None, option("A Hugging Face config.json, read offline.", "--hf-config", group=_NET)]
Hidden = Annotated[str | None, option("Its width, with --layers and --heads.", group=_NET)]
Layers = Annotated[str | None, option("Its layers.", group=_NET)]
Heads = Annotated[str | None, option("Its attention heads.", group=_NET)]
KvHeads = Annotated[str | None, option("Its key-value heads; as many unless said.", group=_NET)]
Ffn = Annotated[str | None, option("The width of its feed-forward layers.", group=_NET)]
Vocab = Annotated[str | None, option("Its vocabulary.", group=_NET)]

SeqLen = Annotated[str | None, option("Tokens of a sample: 2048; 8K is 8000.", group=_MEM)]
ImageSize = Annotated[str | None, option("Pixels of an image's side: 224.", group=_MEM)]
Checkpointing = Annotated[
    str | None, option("none, selective or full recomputation of activations.", group=_MEM, words=of("checkpointing"))
]
Attention = Annotated[
    str | None, option("flash (in one kernel, as SDPA does) or eager.", group=_MEM, words=of("attention"))
]
Loss = Annotated[str | None, option("whole or chunked: logits in pieces.", group=_MEM, words=of("loss"))]
GradientRelease = Annotated[
    bool, option("Step each weight as soon as it has its gradient.", "--gradient-release", group=_MEM)
]
Clipping = Annotated[bool, option("The gradients' norm has to be clipped.", "--clipping", group=_MEM)]
Offload = Annotated[bool, option("Optimizer state in the host's memory.", "--offload", group=_MEM)]

Rules = Annotated[list[Path] | None, option("A folder of further rules; may repeat.", "--rules", group=_OUT)]
Json = Annotated[bool, option("Short for --format json.", "--json", group=_OUT)]
Report = Annotated[Path | None, option("Write a page of HTML to this file, too.", "--report", group=_OUT)]
