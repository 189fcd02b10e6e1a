"""Which optimizers survive sharding: five steps on two ranks against one process, for every implementation here.

Usage: python -m tests.sharding FILE writes what was found as JSON lines, one for each implementation, variant and way
of sharing. Ranks go through the cases in turn; where one fails they are started anew for the rest.
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

from optadvise.benchmark import plan
from optadvise.benchmark.spec import Arm, Companion, Spec
from optadvise.core.cards import Optimizer
from optadvise.rulebase.catalog import Catalog, load
from tests.conftest import ROOT

SHARDS = ("none", "zero1", "fsdp")
STEPS, NPROC = 5, 2
SMALL, LARGE = 100_000, 3_000_000  # parameters; the latter where what is quantised shall be it in halves, too
TIMEOUT = 120  # seconds of one case


class Case(NamedTuple):
    """An implementation in one way of sharing."""

    optimizer: str
    implementation: str
    variant: str | None
    shard: str
    params: int
    arm: Arm


def companion(catalog: Catalog, card: Optimizer) -> Companion | None:
    """Return what steps the weights that an optimizer leaves to another, with that one's defaults."""
    if card.companion is None:
        return None
    other = plan.plan_defaults(catalog.optimizer(card.companion.optimizer), {})
    return Companion(other.path, other.package, other.kwargs)


def cases(catalog: Catalog, names: list[str] | None = None) -> Iterator[Case]:
    """Yield what can be run on a CPU here: every variant of every implementation."""
    for name in names or catalog.optimizer_ids:
        card = catalog.optimizer(name)
        beside = companion(catalog, card)
        for made in card.implementations:
            if "cpu" not in made.devices or not plan.is_importable(made):
                continue
            for variant in plan.list_variants(made, "cpu"):
                arm = plan.plan_defaults(card, {}, implementation=made.id)
                every = {key for kwargs in made.variants.values() for key in kwargs}
                kwargs = {k: v for k, v in arm.kwargs.items() if k not in every} | dict(
                    made.variants.get(variant or "", {})
                )
                arm = replace(arm, kwargs=kwargs, variant=variant, companion=beside, unsupported=None)
                state = card.state if made.state is None else made.state
                size = LARGE if any(tensor.min_elements > 1 for tensor in state) else SMALL
                for shard in SHARDS:
                    yield Case(name, made.id, variant, shard, size, arm)


def found(asked: list[Case]) -> Iterator[tuple[Case, float | str]]:
    """Yield how far each is from one process, or what it raised."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "cases.json", Path(folder) / "found.jsonl"
        file.write_text(json.dumps([[*case[:5], to_builtins(case.arm)] for case in asked]), encoding="utf-8")
        done = 0
        while done < len(asked):
            out.unlink(missing_ok=True)
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NPROC),
                       "-m", "tests.sharding", "--rank", str(file), str(out), str(done)]  # fmt: skip
            ran = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                                 text=True)  # fmt: skip
            told = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
            if not told:
                raise RuntimeError(ran.stderr[-2000:])
            for answer in told:
                yield asked[done], answer
                done += 1


def rank(file: str, out: str, start: int) -> None:
    """Go through the cases from one on; rank 0 writes what is found, until one fails."""
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
        except Exception as error:  # whatever somebody else's code does
            answer = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            Path(f"{out}.{ranks.rank}").write_text(answer, encoding="utf-8")
        if ranks.rank == 0:
            other = Path(f"{out}.1")
            if isinstance(answer, str) and "losed by peer" in answer and other.exists():
                answer = other.read_text(encoding="utf-8")  # this rank only lost the one that failed
            with Path(out).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(answer) + "\n")
        if isinstance(answer, str):
            os._exit(1)
    distributed.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        rank(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        with Path(sys.argv[1]).open("w", encoding="utf-8") as lines:
            for case, answer in found(list(cases(load(), sys.argv[2:] or None))):
                lines.write(json.dumps([*case[:4], answer]) + "\n")
                lines.flush()
                print(*case[:4], answer, flush=True)
