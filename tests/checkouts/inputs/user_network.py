"""A user's own network, for `optadvise estimate --from user_network:build`."""

from typing import Any

import torch


def build() -> tuple[Any, Any]:
    """Return a small classifier and batches of 32 samples."""
    module = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 10))
    return module, [(torch.zeros(32, 64), torch.zeros(32, dtype=torch.long))]
