"""Steps of a variant of every implementation that has it, compared with the for-loop variant on a CPU.

`TRITON_INTERPRET=1 python -m tests.variant_steps triton` runs Triton kernels without a GPU.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from optadvise.core.cards import Implementation, Optimizer
from optadvise.rulebase.catalog import load
from optadvise.rulebase.constructor import constructor_kwargs, convert_lists

BASELINE = "for-loop"
SHAPES = ((129, 33), (1100,), (7,))  # several blocks of a kernel, the last of them not full, and less than one block
STEPS = 6  # Ranger's first update of the slow weights is in step 6
BLOCK_SIZE = 128


def measure_differences(variant: str) -> Iterator[tuple[str, float]]:
    """Yield each implementation with the difference of its weights, relative to how far they moved."""
    catalog = load()
    for name in catalog.optimizer_ids:
        card = catalog.optimizer(name)
        for implementation in card.implementations:
            is_installed = find_spec(implementation.path.split(".")[0]) is not None
            if is_installed and {variant, BASELINE} <= implementation.variants.keys():
                yield f"{name}-{implementation.id}", _measure_difference(card, implementation, variant)


def _measure_difference(card: Optimizer, implementation: Implementation, variant: str) -> float:
    random = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=random) * 0.02 for shape in SHAPES]
    gradients = [[torch.randn(shape, generator=random) for shape in SHAPES] for _ in range(STEPS)]
    expected = _run_steps(card, implementation, BASELINE, start, gradients)
    weights = _run_steps(card, implementation, variant, start, gradients)
    pairs = list(zip(weights, expected, start, strict=True))
    return max(float((one - other).norm() / (other - before).norm()) for one, other, before in pairs)


def _run_steps(
    card: Optimizer, implementation: Implementation, variant: str, start: list[Tensor], gradients: list[list[Tensor]]
) -> list[Tensor]:
    module, _, name = implementation.path.rpartition(".")
    values = {h.name: h.default for h in card.hyperparameters}
    device = None if variant == "triton" else "cpu"  # a card may disable Triton on a CPU
    kwargs = constructor_kwargs(implementation, values, device=device, variant=variant, steps=STEPS)
    weights = [weight.clone().requires_grad_() for weight in start]
    optimizer = getattr(importlib.import_module(module), name)(weights, **convert_lists(kwargs))
    if variant == "triton" and hasattr(optimizer, "update_fn"):
        optimizer.update_fn = _skip_autotuning(f"{module}.triton")
    if implementation.needs_train_mode:
        optimizer.train()
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    return [weight.detach() for weight in weights]


def _skip_autotuning(module: str) -> Callable[..., None]:
    """Return lion-pytorch's kernel with a fixed block size; the autotuner and its check of the device require a GPU."""
    kernel: Any = importlib.import_module(module).update_fn_kernel.fn

    def update(weight: Tensor, gradient: Tensor, *others: object) -> None:
        blocks = -(-weight.numel() // BLOCK_SIZE)
        kernel[(blocks,)](weight, gradient, *others, weight.numel(), BLOCK_SIZE=BLOCK_SIZE)

    return update


if __name__ == "__main__":
    print(json.dumps(dict(measure_differences(sys.argv[1]))))
