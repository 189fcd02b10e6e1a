"""Modified workers for benchmarks/bench_trust.py.

Usage: python benchmarks/altered_worker.py slowed|plain

`slowed` is the real worker with an optimizer step that takes 10 % longer, by busy waiting. `plain` implements the
protocol with a hand-written timing loop, without this package's harness.
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
    """Run the real worker with an optimizer step that takes 10 % longer."""

    class SlowedTraining(training_loop.Training):
        def __init__(self, spec: Spec, arm: Arm, ranks: Any = None) -> None:
            super().__init__(spec, arm, ranks)
            self._steps = [self._slow_down(step) for step in self._steps]

        @staticmethod
        def _slow_down(step: Any) -> Any:
            def slowed_step() -> None:
                start = time.perf_counter()
                step()
                until = start + (time.perf_counter() - start) * SLOWDOWN
                while time.perf_counter() < until:
                    pass

            return slowed_step

    arm_session.Training = SlowedTraining  # type: ignore[attr-defined]
    worker.main()


def plain() -> None:
    """Answer the protocol with a plain timing loop."""
    import torch

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    spec, arm = convert(start["spec"], Spec), convert(start["arm"], Arm)
    torch.set_num_threads(spec.threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(spec.seed)
    workload = workloads.build(spec.workload, size=spec.size, seed=spec.seed)
    parameters = list(workload.module.parameters())
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    betas = arm.kwargs["betas"]
    assert isinstance(betas, list)
    kwargs = {**arm.kwargs, "betas": tuple(betas)}
    optimizer = optimizer_builder.resolve(arm.path, arm.package)(groups, **kwargs)

    def step() -> float:
        batch = next(workload.batches)
        optimizer.zero_grad(set_to_none=True)
        workload.loss(workload.module, batch).backward()
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
    {"slowed": slowed, "plain": plain}[sys.argv[1]]()
