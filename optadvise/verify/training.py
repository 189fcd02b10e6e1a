"""Small training runs whose losses experiments compare. Imports torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import torch
from msgspec import to_builtins
from torch import Tensor, nn

from optadvise.benchmark import optimizer_builder, workloads
from optadvise.benchmark.defaults import SIZES
from optadvise.benchmark.spec import Arm
from optadvise.benchmark.workload_data import VOCABULARY, language_loss, text_batches
from optadvise.core.findings import ExperimentSetting
from optadvise.verify.builder import silence_libraries

_WARMUP_START = 0.01  # factor on the learning rate at the first step of a warmup
_SIZE = ("network", "params", "width", "depth", "batch_size", "seq_len", "steps")
_SPIKE = ("spike_at", "spike_steps", "spike_times")


class _PostNorm(nn.Module):  # type: ignore[misc]
    """Byte-level language model with post-norm encoder layers of torch."""

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


def _build_post_norm(setting: ExperimentSetting, seed: int, device: str) -> workloads.Workload:
    torch.manual_seed(seed)
    module = _PostNorm(setting["width"], setting["depth"], setting["seq_len"]).to(device)
    batches = text_batches(setting["batch_size"], setting["seq_len"], seed, device)
    return workloads.Workload(module, batches, language_loss, setting["batch_size"], "samples/s")


def _build_workload(setting: ExperimentSetting, seed: int, device: str) -> workloads.Workload:
    sizes = {name: setting[name] for name in ("params", "batch_size", "seq_len") if name in setting}
    return workloads.build(setting["network"], seed=seed, device=device, **sizes)


NETWORKS = {"post-norm": _build_post_norm, **dict.fromkeys(SIZES, _build_workload)}


class TrainingCache:
    """Losses of training runs; claims with the same run share it."""

    def __init__(self) -> None:
        """Create an empty cache."""
        self._losses: dict[str, list[float]] = {}

    def get_losses(
        self, arm: Arm, setting: ExperimentSetting, seed: int, device: str, *, warmup: int = 0, spiked: bool = True
    ) -> list[float]:
        """Return the loss of every step; after divergence, the loss of the first step.

        Args:
            setting: `network` with its size, `batch_size` and `steps`; optionally `spike_at`, `spike_steps` and
                `spike_times`: first step, length and factor of a gradient spike.
            seed: Seed of the weights and the batches.
            warmup: Warmup steps.
            spiked: Apply the spike.
        """
        names = (*_SIZE, *(_SPIKE if spiked else ()))
        relevant = {name: setting[name] for name in names if name in setting}
        key = json.dumps([to_builtins(arm), relevant, seed, device, warmup], sort_keys=True, default=str)
        if key not in self._losses:
            with silence_libraries(), torch.random.fork_rng(devices=[]):
                self._losses[key] = train(arm, relevant, seed, device, warmup)
        return self._losses[key]


def train(arm: Arm, setting: ExperimentSetting, seed: int, device: str, warmup: int) -> list[float]:
    """Train a network and return the loss of every step; arguments as for `TrainingCache.get_losses`."""
    workload = NETWORKS[setting["network"]](setting, seed, device)
    named = list(workload.module.named_parameters())
    weights = [weight for _, weight in named]
    optimizers = optimizer_builder.build_optimizers(arm, named, workload.module)
    schedulers = [
        torch.optim.lr_scheduler.LinearLR(optimizer, _WARMUP_START, 1.0, warmup) for optimizer in optimizers if warmup
    ]
    losses: list[float] = []
    for step in range(setting["steps"]):
        loss = workload.loss(workload.module, next(workload.batches))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        _scale_spike(weights, setting, step)
        if arm.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(weights, arm.max_grad_norm)
        for each in (*optimizers, *schedulers):
            each.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
    return cap_losses(losses, setting["steps"])


def _scale_spike(weights: Sequence[nn.Parameter], setting: ExperimentSetting, step: int) -> None:
    """Multiply the gradients if the step is within the spike."""
    if 0 <= step - setting.get("spike_at", setting["steps"]) < setting.get("spike_steps", 0):
        for weight in weights:
            if weight.grad is not None:
                weight.grad *= setting["spike_times"]


def cap_losses(losses: Sequence[float], steps: int) -> list[float]:
    """Return one loss per step, limited to the loss of the first step.

    Args:
        losses: Measured losses, up to the first that is not finite.

    Example:
        >>> cap_losses([5.0, 4.0, 900.0, float("nan")], 5)
        [5.0, 4.0, 5.0, 5.0, 5.0]
    """
    first = losses[0]
    capped = [min(loss, first) if math.isfinite(loss) else first for loss in losses]
    return capped + [first] * (steps - len(capped))
