"""Small trainings whose losses claims are held against. Each is made once, however many claims ask for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from msgspec import to_builtins
from torch import Tensor, nn

from optadvise.benchmark import optimizer_builder, workloads
from optadvise.benchmark.spec import Arm
from optadvise.benchmark.workload_data import VOCABULARY, language_loss, text_batches
from optadvise.verify.builder import quiet

_WARMUP_FROM = 0.01  # share of the rate that a warmup begins with
_SIZE = ("network", "params", "width", "depth", "batch_size", "seq_len", "steps")
_SPIKE = ("spike_at", "spike_steps", "spike_times")


class _PostNorm(nn.Module):  # type: ignore[misc]
    """torch's own encoder, whose norms come after each block, as a language model on bytes."""

    def __init__(self, width: int, depth: int, seq_len: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(seq_len, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(seq_len))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.blocks(x, mask=self.mask, is_causal=True))


def _post_norm(setting: Mapping[str, Any], seed: int, device: str) -> workloads.Workload:
    torch.manual_seed(seed)
    module = _PostNorm(setting["width"], setting["depth"], setting["seq_len"]).to(device)
    batches = text_batches(setting["batch_size"], setting["seq_len"], seed, device)
    return workloads.Workload("post-norm", module, batches, language_loss, setting["batch_size"], "samples/s")


def _built_in(setting: Mapping[str, Any], seed: int, device: str) -> workloads.Workload:
    sizes = {name: setting[name] for name in ("params", "batch_size", "seq_len") if name in setting}
    return workloads.build(setting["network"], seed=seed, device=device, **sizes)


NETWORKS = {"post-norm": _post_norm, **dict.fromkeys(workloads.SIZES, _built_in)}


class Trainings:
    """Losses by what was trained, kept for the next claim that asks."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: dict[str, list[float]] = {}

    def losses(
        self, arm: Arm, setting: Mapping[str, Any], seed: int, device: str, *, warmup: int = 0, spiked: bool = True
    ) -> list[float]:
        """Return the loss of every step; a run that diverges has the first one from there on, as it learned nothing.

        Args:
            arm: The optimizer.
            setting: `network` with its size, `batch_size` and `steps`; and, for gradients that are suddenly
                `spike_times` as large, `spike_at` and `spike_steps`.
            seed: Of the weights and of the batches.
            device: cpu or cuda.
            warmup: Steps over which the rate rises.
            spiked: Let the spike happen.
        """
        told = {name: setting[name] for name in (*_SIZE, *(_SPIKE if spiked else ())) if name in setting}
        key = json.dumps([to_builtins(arm), told, seed, device, warmup], sort_keys=True, default=str)
        if key not in self._known:
            with quiet(), torch.random.fork_rng(devices=[]):
                self._known[key] = _train(arm, told, seed, device, warmup)
        return self._known[key]


def _train(arm: Arm, setting: Mapping[str, Any], seed: int, device: str, warmup: int) -> list[float]:
    work = NETWORKS[setting["network"]](setting, seed, device)
    named = list(work.module.named_parameters())
    weights = [weight for _, weight in named]
    built = optimizer_builder.build_optimizers(arm, named, work.module)
    for optimizer in built:
        if arm.train_mode:
            optimizer.train()
    rising = [torch.optim.lr_scheduler.LinearLR(o, _WARMUP_FROM, 1.0, warmup) for o in built] if warmup else []
    losses: list[float] = []
    for step in range(setting["steps"]):
        loss = work.loss(work.module, next(work.batches))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        if 0 <= step - setting.get("spike_at", setting["steps"]) < setting.get("spike_steps", 0):
            for weight in weights:
                if weight.grad is not None:
                    weight.grad *= setting["spike_times"]
        if arm.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(weights, arm.max_grad_norm)
        for one in (*built, *rising):
            one.step()
        for optimizer in built:
            optimizer.zero_grad()
    return capped(losses, setting["steps"])


def capped(losses: Sequence[float], steps: int) -> list[float]:
    """Return losses that are at most the first, and as many as there were to be steps.

    Args:
        losses: As measured, broken off where they were no number.
        steps: How many there should be.

    Example:
        >>> capped([5.0, 4.0, 900.0, float("nan")], 5)
        [5.0, 4.0, 5.0, 5.0, 5.0]
    """
    first = losses[0]
    kept = [min(loss, first) if math.isfinite(loss) else first for loss in losses]
    return kept + [first] * (steps - len(kept))
