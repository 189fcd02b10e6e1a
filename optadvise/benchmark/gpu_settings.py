"""Settings of torch in this process that affect a GPU."""

from __future__ import annotations

import os
from typing import Any

import torch

from optadvise.benchmark.gpu_records import GpuSettings


def read_gpu_settings() -> GpuSettings:
    """Return whether torch uses TF32, and the settings of its allocator."""
    backends = torch.backends
    return GpuSettings(
        tf32_matmul=_uses_tf32(backends.cuda.matmul),
        tf32_convolution=_uses_tf32(backends.cudnn),
        allocator=os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF"),
    )


def _uses_tf32(backend: Any) -> bool | None:
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:  # the program used `fp32_precision`, which torch 2.9 added
        return getattr(backend, "fp32_precision", None) == "tf32"
