"""Does the bench measure well on this machine?

Usage: python benchmarks/bench_trust.py [RUNS] [--markdown FILE]

(a) the harness's median optimizer step against a bare hand-written loop, in rounds that alternate: within 3 %;
(b) the same optimizer against itself, RUNS times: `optimizer_seconds <= 1x` says fail at most 5 % of the time;
(c) an injected slowdown of 10 % against `optimizer_seconds <= 1.05x`: found, or inconclusive, never passed;
(d) state bytes counted from the tensors against the cards' arithmetic: equal for every optimizer.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import plan, results, runner
from optadvise.benchmark.environment import read_machine
from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.records import Figure
from optadvise.benchmark.requirements import parse_requirement
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.statistics import ratio_ci
from optadvise.benchmark.worker_arm import WORKER, WorkerArm
from optadvise.memory.optimizer_state import compute_shared_state_bytes, compute_state_bytes
from optadvise.rulebase.catalog import load

ALTERED = [sys.executable, str(Path(__file__).with_name("altered_worker.py"))]
ADVISOR = CompiledRules(load())


def measured(spec: Spec, arms: list[Arm], commands: list[list[str] | None]) -> list[ArmMeasurement]:
    """Run some arms, each with its own worker command."""
    workers = [
        WorkerArm(spec, arm, timeout=300, command=command or WORKER)
        for arm, command in zip(arms, commands, strict=True)
    ]
    return runner.run_arms(workers, spec.rounds, progress=lambda *_: None, save=lambda _: None)


def pair(spec: Spec) -> list[Arm]:
    """Return AdamW twice, once as the candidate and once as the control."""
    (arm,) = plan.plan_arms(ADVISOR, ["adamw"], spec, control=None, implementation=None)
    return [arm, replace(arm, role="control", label="adamw (control)")]


def against_bare() -> Figure:
    """Return the ratio of the harness's optimizer step to the bare loop's, with its interval."""
    spec = Spec(rounds=40, steps=10)
    harness, bare = measured(spec, pair(spec), [None, [*ALTERED, "bare"]])
    assert not harness.failure, harness.failure
    assert not bare.failure, bare.failure
    return ratio_ci([r["optimizer"] for r in harness.rounds], [r["optimizer"] for r in bare.rounds])


def verdicts(runs: int, require: str, command: list[str] | None) -> Counter[str]:
    """Return the verdicts of several runs of AdamW, perhaps altered, against itself."""
    spec = Spec(optimizer_only=True, params=5_000_000, rounds=10, steps=10)
    found: Counter[str] = Counter()
    for number in range(runs):
        records = measured(spec, pair(spec), [command, None])
        verdict = str(results.make_result(spec, records, [parse_requirement(require)], machine=read_machine()).verdict)
        found[verdict] += 1
        print(f"  {require}, run {number + 1} of {runs}: {verdict}", file=sys.stderr, flush=True)
    return found


def exact_states() -> tuple[int, list[str]]:
    """Return how many optimizers were counted, and those whose state differs from the card's arithmetic."""
    from optadvise.benchmark import workloads

    spec = Spec(rounds=1, steps=1, warmup=0)
    shapes = [tuple(p.shape) for p in workloads.build("transformer").module.parameters()]
    counted, differing = 0, []
    for name in ADVISOR.catalog.optimizer_ids:
        (arm,) = plan.plan_arms(ADVISOR, [name], spec, control=None, implementation=None)
        if arm.companion is not None:  # two optimizers share the tensors: the contract test counts each alone
            continue
        (record,) = measured(spec, [replace(arm, unsupported=None)], [None])
        card = ADVISOR.catalog.optimizer(name)
        made = next(i for i in card.implementations if i.path == arm.path)
        state = card.state if made.state is None else made.state
        wanted = sum(compute_state_bytes(state, shape) for shape in shapes) + compute_shared_state_bytes(state)
        counted += 1
        if record.counts.state_bytes != wanted:
            differing.append(f"{name}: {record.counts.state_bytes} against {wanted} {record.failure}")
    return counted, differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=30)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    against = against_bare()
    ratio, interval = against.value, against.interval
    same = verdicts(asked.runs, "optimizer_seconds <= 1x", None)
    slow = verdicts(asked.runs, "optimizer_seconds <= 1.05x", [*ALTERED, "slowed"])
    counted, differing = exact_states()
    spread = "" if interval is None else f" ({interval.low:.3f} … {interval.high:.3f})"
    machine = read_machine()
    lines = [
        f"Measured on {machine.processor}, {machine.cores} cores, {machine.platform}, Python {machine.python}.",
        "",
        "| question | outcome | wanted |",
        "|---|---|---|",
        f"| (a) harness / bare loop, optimizer step | {ratio:.3f}{spread} | 0.97 … 1.03 |",
        f"| (b) an optimizer against itself, {asked.runs} runs | {_told(same)} | fail at most 5 % |",
        f"| (c) a slowdown of 10 %, {asked.runs} runs | {_told(slow)} | never pass |",
        f"| (d) state bytes equal the card's | {counted - len(differing)} of {counted} optimizers | all |",
        *(f"| | differs: {line} | |" for line in differing),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.markdown:
        asked.markdown.write_text(text, encoding="utf-8")


def _told(found: Counter[str]) -> str:
    return ", ".join(f"{found[word]} {word}" for word in ("pass", "fail", "inconclusive"))


if __name__ == "__main__":
    main()
