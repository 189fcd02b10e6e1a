"""Built-in workloads: small networks with training data. Imports torch.

`next(batches)` moves a batch to the device and must not be timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optadvise.benchmark.defaults import SIZES, TEXT_WORKLOADS
from optadvise.benchmark.options import DTYPES
from optadvise.benchmark.workload_data import VOCABULARY, default_loss, image_batches, language_loss, text_batches
from optadvise.benchmark.workload_networks import NETWORKS, fit, nearest_shape
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, check_choice

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass
class Workload:
    """Network, data and loss."""

    module: nn.Module
    batches: Iterator[Any]  # infinite, on the module's device; deterministic for a seed
    loss: Loss  # loss(module, batch) returns a scalar; the module may be compiled or wrapped
    samples_per_step: int
    unit: str  # unit of throughput


AUTOCAST_DTYPES = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}
_MIN_EXTENT = 16  # tokens per sequence


def build(
    name: str,
    *,
    size: str = "tiny",
    params: int | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
    seed: int = 0,
    rank: int = 0,
    device: str = "cpu",
    dtype: str = "fp32",
) -> Workload:
    """Return a built-in workload; equal arguments give equal weights and batches.

    Args:
        name: `transformer` (text as bytes), `cnn` or `mlp` (images of ten digits).
        size: `tiny`, `small` or `medium`: about 0.7, 10 and 50 to 85 million parameters.
        params: Number of parameters, matched within 10 %; overrides `size`.
        batch_size: Sequences or images per step.
        seq_len: Tokens per sequence (a token is a byte); only for `transformer`.
        seed: Seed of weights and batches.
        rank: Rank of this process; ranks have equal weights and different batches.
        device: Device of the module and the batches.
        dtype: `bf16` converts weights and images to bf16; for `amp-*` the caller must enable autocast.

    Raises:
        InputError: A name is unknown, a number is out of range, or the workload does not support an option.
    """
    sizes = SIZES[check_choice("--workload", name, SIZES)]
    shape = sizes[check_choice("--model-size", size, sizes)]
    check_choice("--precision", dtype, DTYPES)
    batch = _check_minimum(1, batch_size, shape.batch, "--batch-size")
    if name not in TEXT_WORKLOADS and seq_len is not None:
        raise InputError(
            f"--seq-len {seq_len}: not supported by --workload {name}; remove it",
            code=ErrorCode.OPTION_CONFLICT, option="--seq-len", value=seq_len,
        )  # fmt: skip
    extent = _check_minimum(_MIN_EXTENT, seq_len, shape.extent, "--seq-len")
    width, depth = (shape.width, shape.depth) if params is None else fit(name, params, extent)
    if name in TEXT_WORKLOADS:
        batches, loss = text_batches(batch, extent, seed + rank, device), language_loss
    else:
        batches, loss = image_batches(batch, extent, seed + rank, device, weights_dtype(dtype)), default_loss
    with torch.random.fork_rng(devices=[]):  # initialized on the CPU, so that all devices start from equal weights
        torch.manual_seed(seed)
        module = NETWORKS[name](width, depth, extent)
    module.to(device=device, dtype=weights_dtype(dtype))
    return Workload(module, batches, loss, batch, "samples/s")


def _check_minimum(minimum: int, value: int | None, default: int, flag: str) -> int:
    """Return a value, or the default if it is None; raise InputError below the minimum."""
    if value is not None and value < minimum:
        message = f"{flag} {value}: must be at least {minimum}"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option=flag, value=value)
    return default if value is None else value


def weights_dtype(dtype: str) -> torch.dtype:
    """Return the data type of the weights for a training precision."""
    return torch.bfloat16 if dtype == "bf16" else torch.float32


def parameter_shapes(params: int) -> list[tuple[int, ...]]:
    """Return the parameter shapes of a decoder transformer, for timing `step()` without a model.

    Args:
        params: Number of parameters, matched within 5 %.

    Raises:
        InputError: The number is not between 100K and 300B.
    """
    # With a large vocabulary, a small model would consist of embeddings only.
    vocabulary = 32_000 if params >= 100_000_000 else 8_000 if params >= 10_000_000 else VOCABULARY

    def count(width: int, depth: int) -> int:
        return 2 * vocabulary * width + depth * (12 * width**2 + 2 * width) + width

    width, depth = nearest_shape(params, count, range(1, 129), 96) if params > 0 else (16, 1)
    if not params or abs(count(width, depth) / params - 1) > 0.05:
        raise InputError(
            f"--params {params}: must be between 100K and 300B with --optimizer-only",
            code=ErrorCode.OUT_OF_RANGE, option="--params", value=params,
        )  # fmt: skip
    layer = [(width,), (3 * width, width), (width, width), (width,), (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width), *layer * depth, (width,), (vocabulary, width)]
