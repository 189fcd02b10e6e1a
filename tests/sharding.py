"""Audit of optimizers under sharding: five steps on two ranks compared with one process, on the CPU.

Usage: python -m tests.sharding FILE [NAME…]

FILE gets one JSON line for each implementation, variant and sharding: the difference from one process, or the error.
When a rank fails, the remaining cases run in new ranks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec import convert, to_builtins
from msgspec.structs import replace

from optadvise.benchmark import plan, variants
from optadvise.benchmark.spec import Arm, Companion, Spec
from optadvise.core.cards import Optimizer
from optadvise.rulebase.catalog import Catalog, load
from tests.conftest import ROOT

SHARDS = ("none", "zero1", "fsdp")
STEPS, NPROC = 5, 2
SMALL, LARGE = 100_000, 3_000_000  # parameters; LARGE so that shards of quantized state are quantized, too
TIMEOUT = 120  # seconds of one case


class Case(NamedTuple):
    """An implementation with a variant and a sharding."""

    optimizer: str
    implementation: str
    variant: str | None
    shard: str
    params: int
    arm: Arm


def plan_companion(catalog: Catalog, card: Optimizer) -> Companion | None:
    """Return the optimizer of weights that a card does not support, with its defaults; None if it supports all."""
    if card.companion is None:
        return None
    other = plan.plan_defaults(catalog.optimizer(card.companion.optimizer), {})
    return Companion(other.path, other.package, other.kwargs)


def list_cases(catalog: Catalog, names: list[str] | None = None) -> Iterator[Case]:
    """Yield every variant of every implementation that runs on this machine's CPU, with every sharding."""
    for name in names or catalog.optimizer_ids:
        card = catalog.optimizer(name)
        companion = plan_companion(catalog, card)
        for implementation in card.implementations:
            if "cpu" not in implementation.devices or not variants.is_importable(implementation):
                continue
            if implementation.tensors == "table":  # the workloads have dense gradients
                continue
            for variant in variants.list_variants(implementation, "cpu"):
                arm = plan.plan_defaults(card, {}, implementation=implementation.id)
                variant_keys = {key for kwargs in implementation.variants.values() for key in kwargs}
                kwargs = {k: v for k, v in arm.kwargs.items() if k not in variant_keys} | dict(
                    implementation.variants.get(variant or "", {})
                )
                arm = replace(arm, kwargs=kwargs, variant=variant, companion=companion, unsupported=None)
                state = card.state if implementation.state is None else implementation.state
                size = LARGE if any(tensor.min_elements > 1 for tensor in state) else SMALL
                for shard in SHARDS:
                    yield Case(name, implementation.id, variant, shard, size, arm)


def run_cases(cases: list[Case]) -> Iterator[tuple[Case, float | str]]:
    """Yield each case with its difference from one process, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "cases.json", Path(folder) / "results.jsonl"
        file.write_text(json.dumps([[*case[:5], to_builtins(case.arm)] for case in cases]), encoding="utf-8")
        done = 0
        while done < len(cases):
            out.unlink(missing_ok=True)
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NPROC),
                       "-m", "tests.sharding", "--rank", str(file), str(out), str(done)]  # fmt: skip
            process = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                                 text=True)  # fmt: skip
            answers = (
                [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
            )
            if not answers:
                raise RuntimeError(process.stderr[-2000:])
            for answer in answers:
                yield cases[done], answer
                done += 1


def run_rank(file: str, out: str, start: int) -> None:
    """Run the cases from `start`; rank 0 writes the results until a case fails."""
    import datetime

    import torch
    from torch import distributed

    from optadvise.benchmark import training_loop
    from optadvise.benchmark.distributed import communication
    from optadvise.benchmark.distributed.ranks import Ranks

    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=TIMEOUT)
    ranks = Ranks("cpu", timeout)
    for *_, shard, params, arm in json.loads(Path(file).read_text(encoding="utf-8"))[start:]:
        spec = Spec(params=params, nproc=NPROC, shard=shard, threads=1)
        try:
            training = training_loop.Training(spec, convert(arm, Arm), ranks)
            for _ in range(STEPS):
                training.step()
            answer: float | str = communication.measure_parity(training, ranks)
        except Exception as error:  # third-party code may raise anything
            answer = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            Path(f"{out}.{ranks.rank}").write_text(answer, encoding="utf-8")
        if ranks.rank == 0:
            other = Path(f"{out}.1")
            if isinstance(answer, str) and "losed by peer" in answer and other.exists():
                answer = other.read_text(encoding="utf-8")  # the other rank failed
            with Path(out).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(answer) + "\n")
        if isinstance(answer, str):
            os._exit(1)
    distributed.destroy_process_group()


def main(arguments: list[str]) -> None:
    """Run the command line, or one rank of torchrun."""
    if arguments[:1] == ["--rank"]:
        run_rank(arguments[1], arguments[2], int(arguments[3]))
        return
    if not arguments or arguments[0].startswith("-"):
        print("Usage: python -m tests.sharding FILE [NAME…]", file=sys.stderr)
        raise SystemExit(2)
    with Path(arguments[0]).open("w", encoding="utf-8") as lines:
        for case, answer in run_cases(list(list_cases(load(), arguments[1:] or None))):
            lines.write(json.dumps([*case[:4], answer]) + "\n")
            lines.flush()
            print(*case[:4], answer, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
