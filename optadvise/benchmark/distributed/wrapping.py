"""A network and its optimizer over several ranks, by PyTorch's own means: DDP, ZeRO-1 and FSDP2.

DDP keeps all of it on every rank, ZeRO-1 shards the state tensor by tensor, FSDP2 shards every tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optadvise.benchmark.spec import Sharding


def wrap(module: nn.Module, shard: Sharding, device: str) -> nn.Module:
    """Return a network over all ranks.

    Args:
        module: The same on every rank; `fsdp` shards its weights in place.
    """
    if shard != "fsdp":
        return _StrictDDP(module)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.split(":")[0], (torch.distributed.get_world_size(),))
    for block in _list_blocks(module):
        fully_shard(block, mesh=mesh)
    return fully_shard(module, mesh=mesh)


class _StrictDDP(nn.parallel.DistributedDataParallel):  # type: ignore[misc]
    """DDP that explains why it has none of the network's own methods: they would bypass its gradient hooks."""

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not hasattr(self.module, name):
                raise
            message = (
                f"the loss asks the module for {name!r}; over several processes it may only call the module itself"
            )
            raise AttributeError(message) from None


def _list_blocks(module: nn.Module) -> Iterable[nn.Module]:
    """Yield what is gathered at a time: the members of the network's first list of layers, where it has one."""
    for child in module.modules():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
            return


def broadcast_module(module: nn.Module) -> None:
    """Copy the first rank's weights and buffers to a network; FSDP2, unlike DDP, takes them as they are."""
    for tensor in (*module.parameters(), *module.buffers()):
        torch.distributed.broadcast(tensor.detach(), src=0)


def optimizer_wrapper(shard: Sharding) -> Callable[[type[Optimizer]], Callable[..., Optimizer]]:
    """Return a function that makes a constructor of an optimizer's class."""
    if shard != "zero1":
        return lambda optimizer_class: optimizer_class
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return lambda optimizer_class: functools.partial(ZeroRedundancyOptimizer, optimizer_class=optimizer_class)


def inner(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that holds this rank's state: the one that ZeRO-1 wraps, else itself."""
    return getattr(optimizer, "optim", optimizer)


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def gather_tensor(tensor: Tensor) -> Tensor:
    """Return all of a tensor, gathered from all ranks where it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()
