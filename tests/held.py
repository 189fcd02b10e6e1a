"""What ranks hold and send, measured: weights of given shapes over ranks of torchrun, as the bench spreads them.

Run by torchrun as `-m tests.held WEIGHTS ARMS OUT`; rank 0 writes what was found as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import convert, to_builtins
from msgspec.structs import replace

from optadvise.benchmark import plan
from optadvise.benchmark.spec import Sharding
from optadvise.rulebase.catalog import Catalog
from tests.conftest import ROOT
from tests.sharding import companion

SHARDS = ("none", "zero1", "fsdp")
_NAMES = {"allreduce_": "all-reduce", "broadcast_": "broadcast", "_allgather_base_": "all-gather",
          "_reduce_scatter_base_": "reduce-scatter"}  # fmt: skip


def measured(weights: Sequence[tuple[Sequence[int], str]], wanted: dict[str, list[str]], nproc: int, folder: Path,
             catalog: Catalog) -> dict[str, Any]:  # fmt: skip
    """Return what ranks hold after a step, and the elements of a step's collectives.

    Args:
        weights: Their shapes and kinds.
        wanted: Optimizers by the way of sharding.
        nproc: Ranks.
        folder: For files.
        catalog: Knows the optimizers.

    Returns:
        By the way of sharding: `state`, the bytes on each rank by optimizer; `weights`, likewise; `sent`, elements by
        collective.
    """
    arms: dict[str, dict[str, Any]] = {}
    for shard, names in wanted.items():
        for name in names:
            card = catalog.optimizer(name)
            besides = card.implementations[0].sharding_kwargs.get(shard, {})
            arm = plan.plan_defaults(card, {})
            arms.setdefault(shard, {})[name] = to_builtins(
                replace(arm, kwargs={**arm.kwargs, **besides}, companion=companion(catalog, card))
            )
    out = folder / f"held{nproc}.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc),
               "-m", "tests.held", json.dumps(weights), json.dumps(arms), str(out)]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def _rank(weights: list[tuple[list[int], str]], arms: dict[Sharding, dict[str, Any]], out: Path) -> None:
    import torch
    from torch import distributed
    from torch.profiler import ProfilerActivity, profile

    from optadvise.benchmark import optimizer_builder
    from optadvise.benchmark.distributed import wrapping
    from optadvise.benchmark.spec import Arm

    class One(torch.nn.Module):  # type: ignore[misc]
        """A layer of one weight."""

        def __init__(self, shape: list[int]) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(shape))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.weight.square().sum()

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found: dict[str, Any] = {}
    for shard, named in arms.items():
        found[shard] = {"state": {}}
        for name, arm in named.items():
            layers = {f"{kind}_{number}": One(shape) for number, (shape, kind) in enumerate(weights)}
            module = torch.nn.Sequential(OrderedDict(layers))
            spread = wrapping.wrap(module, shard, "cpu")
            through = wrapping.make_optimizer_wrapper(shard)
            optimizers = optimizer_builder.build_optimizers(
                convert(arm, Arm), list(module.named_parameters()), module, through
            )

            def step(spread: Any = spread, optimizers: Any = optimizers) -> None:
                spread(torch.zeros(1)).sum().backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()

            step()
            held = [optimizer_builder.count_state_bytes(map(wrapping.get_local_optimizer, optimizers)),
                    sum(wrapping.get_local_tensor(weight).nbytes for weight in module.parameters())]  # fmt: skip
            every: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(every, held)
            found[shard]["state"][name] = [state for state, _ in every]
            found[shard]["weights"] = [weights for _, weights in every]
        step()  # DDP forms its buckets anew in the second, and tells the other ranks
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            step()
        trace = out.with_suffix(f".{distributed.get_rank()}")
        profiled.export_chrome_trace(str(trace))  # unlike its events, it tells the shapes inside of lists
        sent: dict[str, int] = {}
        for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]:
            _, is_collective, kind = event["name"].partition("c10d::")
            if is_collective:
                # What goes in and what comes out: the larger is the whole.
                whole = max(_elements(dims) for dims in event["args"]["Input Dims"] if dims)
                sent[_NAMES[kind]] = sent.get(_NAMES[kind], 0) + whole
        found[shard]["sent"] = sent
    if distributed.get_rank() == 0:
        out.write_text(json.dumps(found), encoding="utf-8")
    distributed.destroy_process_group()


def _elements(dims: Any) -> int:
    if dims and isinstance(dims[0], (list, tuple)):
        return sum(_elements(one) for one in dims)
    count = 1
    for size in dims:
        count *= size
    return count


if __name__ == "__main__":
    _rank(json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
