"""Types of the library's keyword arguments. Written by `python -m tests.option_types`; do not edit."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict

Count = str | int | float  # 256, 7e9, "7B", "8K"
Folders = str | PathLike[str] | Sequence[str | PathLike[str]]


class Run(TypedDict, total=False):
    """A training run: the options of `optadvise recommend` and `optadvise estimate`."""

    # Kind of model.
    model: Literal["transformer", "vit", "cnn", "rnn", "mlp", "gnn", "gan", "diffusion", "rl", "recsys"] | None
    # Training from scratch (pretrain) or from a checkpoint (finetune).
    task: Literal["pretrain", "finetune"] | None
    # Train all weights (full) or adapters (lora, qlora).
    method: Literal["full", "lora", "qlora"] | None
    # Rank of the adapters.
    lora_rank: Count | None
    # Samples per forward pass on one GPU.
    micro_batch: Count | None
    # Samples per optimizer step, over all GPUs and gradient accumulation: 256; 8K is 8,000.
    batch_size: Count | None
    # Optimizer steps of the whole run: 100K.
    steps: Count | None
    # Numbers that weights, activations and gradients are stored in.
    precision: Literal["fp32", "amp-bf16", "amp-fp16", "bf16"] | None
    # Whether the loss spikes.
    stability: Literal["stable", "spikes"] | None
    # Budget for tuning, a run or two (low) or a search (high).
    tuning: Literal["low", "high"] | None
    # What counts most.
    priority: Literal["balanced", "accuracy", "memory", "speed"] | None
    # Embeddings have sparse gradients (sparse=True).
    sparse_gradients: bool | None
    # Layers with adapters: all, or names such as q,v.
    lora_targets: str | Sequence[str] | None
    # Use this optimizer; without it recommend chooses one, and estimate takes AdamW.
    optimizer: str | None
    # Memory of one GPU: 24GB (24 GiB, as GPU makers count), 24, 800MB, or auto for the GPU of this machine.
    vram: str | int | None
    # Number of GPUs.
    gpus: Count | None
    # What is sharded over the GPUs.
    shard: Literal["none", "zero1", "zero2", "zero3"] | None
    # Name of the GPU, in the place of --vram: "rtx 4090", a100, h100.
    gpu: str | None
    # Parameters of the whole model: 7B, 350M, 124e6.
    params: Count | None
    # A well-known network: llama-3.1-8b, bert-base, resnet50.
    arch: str | None
    # A Hugging Face config.json, read offline.
    hf_config: str | PathLike[str] | None
    # Hidden size, with --layers and --heads.
    hidden: Count | None
    # Number of layers.
    layers: Count | None
    # Number of attention heads.
    heads: Count | None
    # Number of key-value heads (default: as many as --heads).
    kv_heads: Count | None
    # Width of the feed-forward layers.
    ffn: Count | None
    # Vocabulary size.
    vocab: Count | None
    # Tokens per sample: 2048; 8K is 8,000.
    seq_len: Count | None
    # Side length of an image in pixels: 224.
    image_size: Count | None
    # Activations that are recomputed in the backward pass.
    checkpointing: Literal["none", "selective", "full"] | None
    # Attention in one kernel (flash, as SDPA does) or with the matrix of scores stored (eager).
    attention: Literal["flash", "eager"] | None
    # Loss over all logits at once (whole) or in pieces (chunked).
    loss: Literal["whole", "chunked"] | None
    # Step each weight as soon as its gradient is ready (optimizer in backward).
    gradient_release: bool | None
    # The global gradient norm has to be clipped.
    clipping: bool | None
    # Keep optimizer state in host memory.
    offload: bool | None
    # Folders of further rules.
    rules: Folders


class Measurement(TypedDict, total=False):
    """Options of `optadvise bench`."""

    # Baseline optimizer, or none (default: adamw).
    control: str
    # fused, foreach, for-loop, compiled, a package name, or all (default: the fastest).
    implementation: str
    # transformer (default), cnn, mlp, or package.module:function, which returns (module, batches).
    workload: str
    # Size of the network (default: tiny).
    model_size: Literal["tiny", "small", "medium"]
    # Number of parameters, such as 50M; replaces --model-size.
    params: Count
    # Samples per step.
    batch_size: Count
    # Tokens per sample; only for --workload transformer.
    seq_len: Count
    # Training precision (default: fp32).
    precision: Literal["fp32", "bf16", "amp-bf16", "amp-fp16"]
    # Device to measure on (default: auto).
    device: Literal["auto", "cpu", "cuda"]
    # Measured steps per round (default: 10).
    steps: Count
    # Rounds; optimizers alternate within a round (default: 7).
    rounds: Count
    # Seed of weights and data (default: 0).
    seed: int
    # CPU threads of torch (default: all cores).
    threads: Count
    # Compile the network with torch.compile.
    compile: bool
    # Time step() alone, on --params parameters with random gradients.
    optimizer_only: bool
    # Number of processes, started with torchrun (default: 1).
    nproc: Count
    # Shard nothing (none, ddp), optimizer state (zero1) or everything (fsdp, zero3) (default: none).
    shard: Literal["none", "zero1", "fsdp"]
    # Requirement such as 'state_bytes_per_parameter <= 2.1' or 'optimizer_seconds <= 1.3x'; repeatable.
    require: Sequence[str]
    # Maximum seconds for one answer of a worker (default: 300).
    timeout: float
