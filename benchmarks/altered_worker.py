"""Workers that differ from the real one on purpose, for benchmarks/bench_trust.py.

Usage: python benchmarks/altered_worker.py slowed|bare

`slowed` is the real worker whose optimizer step takes 10 % longer, by spinning. `bare` answers the same protocol with
a loop written by hand, as somebody would who times one optimizer without this package.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from msgspec import convert

from optadvise.benchmark import arm_session, optimizer_builder, training_loop, worker, workloads
from optadvise.benchmark.spec import Arm, Spec

SLOWDOWN = 1.10


def slowed() -> None:
    """Run the real worker with a step that is 10 % longer."""

    class Slowed(training_loop.Training):
        def __init__(self, spec: Spec, arm: Arm, ranks: Any = None) -> None:
            super().__init__(spec, arm, ranks)
            self._steps = [self._spinning(step) for step in self._steps]

        @staticmethod
        def _spinning(step: Any) -> Any:
            def longer() -> None:
                start = time.perf_counter()
                step()
                until = start + (time.perf_counter() - start) * SLOWDOWN
                while time.perf_counter() < until:
                    pass

            return longer

    arm_session.Training = Slowed  # type: ignore[attr-defined]
    worker.main()


def bare() -> None:
    """Answer the protocol with nothing but a loop and a clock."""
    import torch

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    spec, arm = convert(start["spec"], Spec), convert(start["arm"], Arm)
    torch.set_num_threads(spec.threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(spec.seed)
    work = workloads.build(spec.workload, size=spec.size, seed=spec.seed)
    parameters = list(work.module.parameters())
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    betas = arm.kwargs["betas"]
    assert isinstance(betas, list)
    kwargs = {**arm.kwargs, "betas": tuple(betas)}
    optimizer = optimizer_builder.resolve(arm.path, arm.package)(groups, **kwargs)

    def step() -> float:
        batch = next(work.batches)
        optimizer.zero_grad(set_to_none=True)
        work.loss(work.module, batch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, arm.max_grad_norm or 1.0)
        begin = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - begin

    for _ in range(1 + spec.warmup):
        step()
    answers.write(json.dumps({"event": "ready"}) + "\n")
    answers.flush()
    for line in sys.stdin:
        if json.loads(line)["command"] == "finish":
            answers.write(json.dumps({"event": "done"}) + "\n")
        else:
            samples = {"optimizer": [step() for _ in range(spec.steps)]}
            answers.write(json.dumps({"event": "round", "samples": samples}) + "\n")
        answers.flush()


if __name__ == "__main__":
    {"slowed": slowed, "bare": bare}[sys.argv[1]]()
