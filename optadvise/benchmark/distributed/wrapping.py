"""A network and its optimizer over several ranks, by PyTorch's own means: DDP, ZeRO-1 and FSDP2.

DDP keeps all of it on every rank, ZeRO-1 shares out the state tensor by tensor, FSDP2 cuts every tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def spread(module: nn.Module, shard: str, device: str) -> Any:
    """Return a network over all ranks, in the place of its own.

    Args:
        module: The same on every rank; `fsdp` cuts its weights in place.
        shard: none, zero1 or fsdp.
        device: cpu or cuda.
    """
    if shard != "fsdp":
        return _Watched(module)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.split(":")[0], (torch.distributed.get_world_size(),))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    return fully_shard(module, mesh=mesh)


class _Watched(nn.parallel.DistributedDataParallel):  # type: ignore[misc]
    """DDP that says why it has none of the network's own methods: they would step around its watch over gradients."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not hasattr(self.module, name):
                raise
            words = f"the loss asks the module for {name!r}; over several processes it may only call the module itself"
            raise AttributeError(words) from None


def _blocks(module: nn.Module) -> Iterable[nn.Module]:
    """Yield what is gathered at a time: the members of the network's lists of layers, where it has any."""
    for inner in module.modules():
        if isinstance(inner, (nn.Sequential, nn.ModuleList)):
            yield from (layer for layer in inner if any(True for _ in layer.parameters()))
            return


def make_alike(module: nn.Module) -> None:
    """Give a network the weights and buffers that the first rank's has; FSDP2, unlike DDP, takes them as they are."""
    for tensor in (*module.parameters(), *module.buffers()):
        torch.distributed.broadcast(tensor.detach(), src=0)


def constructor(shard: str) -> Callable[[Any], Any]:
    """Return what makes a constructor of an optimizer's class.

    Args:
        shard: none, zero1 or fsdp.
    """
    if shard != "zero1":
        return lambda made: made
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return lambda made: functools.partial(ZeroRedundancyOptimizer, optimizer_class=made)


def inner(optimizer: Any) -> Any:
    """Return the optimizer that holds this rank's state: what ZeRO-1 wraps, else itself."""
    return getattr(optimizer, "optim", optimizer)


def local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, gathered from all ranks where it is cut."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()
