"""Measured memory and communication of torchrun ranks, for weights of given shapes wrapped as in the benchmark.

torchrun runs it as `-m tests.rank_memory WEIGHTS ARMS OUT`; rank 0 writes the results as JSON.
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
from tests.sharding import plan_companion

SHARDS = ("none", "zero1", "fsdp")
_NAMES = {"allreduce_": "all-reduce", "broadcast_": "broadcast", "_allgather_base_": "all-gather",
          "_reduce_scatter_base_": "reduce-scatter"}  # fmt: skip


def measure_ranks(weights: Sequence[tuple[Sequence[int], str]], names: dict[str, list[str]], nproc: int, folder: Path,
                  catalog: Catalog) -> dict[str, Any]:  # fmt: skip
    """Return the memory of ranks after a step, and the elements of the collectives of a step.

    Args:
        weights: Shapes and kinds of the weights.
        names: Optimizers by sharding.
        nproc: Number of ranks.
        folder: Folder for files.
        catalog: Catalog with the optimizers.

    Returns:
        Results by sharding: `state`, bytes of each rank by optimizer; `weights`, bytes of each rank; `sent`, elements
        by collective.
    """
    arms: dict[str, dict[str, Any]] = {}
    for shard, optimizers in names.items():
        for name in optimizers:
            card = catalog.optimizer(name)
            sharding_kwargs = card.implementations[0].sharding_kwargs.get(shard, {})
            arm = plan.plan_defaults(card, {})
            arms.setdefault(shard, {})[name] = to_builtins(
                replace(arm, kwargs={**arm.kwargs, **sharding_kwargs}, companion=plan_companion(catalog, card))
            )
    out = folder / f"ranks{nproc}.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc),
               "-m", "tests.rank_memory", json.dumps(weights), json.dumps(arms), str(out)]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
    assert process.returncode == 0, process.stderr[-3000:]
    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return results


def _run_rank(weights: list[tuple[list[int], str]], arms: dict[Sharding, dict[str, Any]], out: Path) -> None:
    import torch
    from torch import distributed
    from torch.profiler import ProfilerActivity, profile

    from optadvise.benchmark import optimizer_builder
    from optadvise.benchmark.distributed import wrapping
    from optadvise.benchmark.spec import Arm

    class SingleWeight(torch.nn.Module):  # type: ignore[misc]
        """A layer with one weight."""

        def __init__(self, shape: list[int]) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(shape))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.weight.square().sum()

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    results: dict[str, Any] = {}
    for shard, arms_by_name in arms.items():
        results[shard] = {"state": {}}
        for name, arm in arms_by_name.items():
            layers = {f"{kind}_{number}": SingleWeight(shape) for number, (shape, kind) in enumerate(weights)}
            module = torch.nn.Sequential(OrderedDict(layers))
            wrapped = wrapping.wrap(module, shard, "cpu")
            optimizer_wrapper = wrapping.make_optimizer_wrapper(shard)
            optimizers = optimizer_builder.build_optimizers(
                convert(arm, Arm), list(module.named_parameters()), module, optimizer_wrapper
            )

            def step(wrapped: Any = wrapped, optimizers: Any = optimizers) -> None:
                wrapped(torch.zeros(1)).sum().backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()

            step()
            local_bytes = [optimizer_builder.count_state_bytes(map(wrapping.get_local_optimizer, optimizers)),
                    sum(wrapping.get_local_tensor(weight).nbytes for weight in module.parameters())]  # fmt: skip
            all_bytes: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(all_bytes, local_bytes)
            results[shard]["state"][name] = [state for state, _ in all_bytes]
            results[shard]["weights"] = [weights for _, weights in all_bytes]
        step()  # DDP rebuilds its buckets in the second step, with a broadcast
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            step()
        trace = out.with_suffix(f".{distributed.get_rank()}")
        profiled.export_chrome_trace(str(trace))  # unlike the events, it has the shapes in lists
        sent: dict[str, int] = {}
        for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]:
            _, is_collective, kind = event["name"].partition("c10d::")
            if is_collective:
                # The larger of input and output is the full tensor.
                elements = max(_elements(dims) for dims in event["args"]["Input Dims"] if dims)
                sent[_NAMES[kind]] = sent.get(_NAMES[kind], 0) + elements
        results[shard]["sent"] = sent
    if distributed.get_rank() == 0:
        out.write_text(json.dumps(results), encoding="utf-8")
    distributed.destroy_process_group()


def _elements(dims: Any) -> int:
    if dims and isinstance(dims[0], (list, tuple)):
        return sum(_elements(item) for item in dims)
    count = 1
    for size in dims:
        count *= size
    return count


if __name__ == "__main__":
    _run_rank(json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
