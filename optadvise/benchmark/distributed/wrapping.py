"""Networks and optimizers over several ranks with PyTorch's DDP, ZeroRedundancyOptimizer (ZeRO-1) and FSDP2.

DDP replicates everything, ZeRO-1 assigns the state of whole tensors to ranks, FSDP2 shards every tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optadvise.benchmark.spec import Sharding


def wrap(module: nn.Module, shard: Sharding, device: str) -> nn.Module:
    """Return a network wrapped for all ranks.

    Args:
        module: Network with equal weights on all ranks; `fsdp` shards it in place.
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
    """DDP with a clear error for methods of the network, which would bypass the gradient hooks."""

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not hasattr(self.module, name):
                raise
            message = (
                f"the loss uses the module's attribute {name!r}; with several processes it may only call the module"
            )
            raise AttributeError(message) from None


def _list_blocks(module: nn.Module) -> Iterable[nn.Module]:
    """Yield the modules that FSDP2 gathers separately: the layers of the network's first module list, if any."""
    for child in module.modules():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
            return


def broadcast_module(module: nn.Module) -> None:
    """Copy rank 0's weights and buffers to all ranks, which DDP does but FSDP2 does not."""
    for tensor in (*module.parameters(), *module.buffers()):
        torch.distributed.broadcast(tensor.detach(), src=0)


def make_optimizer_wrapper(shard: Sharding) -> Callable[[type[Optimizer]], Callable[..., Optimizer]]:
    """Return a function that converts an optimizer class to a constructor for the sharding strategy."""
    if shard != "zero1":
        return lambda optimizer_class: optimizer_class
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return lambda optimizer_class: functools.partial(ZeroRedundancyOptimizer, optimizer_class=optimizer_class)


def get_local_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer with this rank's state: the one that ZeroRedundancyOptimizer wraps, if any."""
    return getattr(optimizer, "optim", optimizer)


def get_local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def gather_tensor(tensor: Tensor) -> Tensor:
    """Return the whole tensor, gathered from all ranks if it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()
