"""Accuracy of `optadvise bench` on this machine.

Usage: python benchmarks/bench_trust.py [RUNS] [--markdown FILE]

(a) Median optimizer step of the harness relative to a hand-written loop, in alternating rounds: within 3 %.
(b) An optimizer compared with itself, RUNS times: `optimizer_seconds <= 1x` fails at most 5 % of the time.
(c) An optimizer compared with itself, with `optimizer_seconds <= 1.05x`: pass at least 80 % of the time.
(d) A slowdown of 10 % with `optimizer_seconds <= 1.05x`: fail at least 90 % of the time, never pass.
(e) State bytes counted from tensors and computed from the cards: equal for every optimizer.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import plan, runner
from optadvise.benchmark.environment import read_machine
from optadvise.benchmark.measurement import ArmMeasurement
from optadvise.benchmark.records import Figure
from optadvise.benchmark.request import Request
from optadvise.benchmark.request import measure as measure_request
from optadvise.benchmark.requirements import parse_requirement
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.statistics import ratio_ci
from optadvise.benchmark.worker_arm import WORKER, WorkerArm
from optadvise.memory.optimizer_state import compute_shared_state_bytes, compute_state_bytes
from optadvise.rulebase.catalog import load

ALTERED = [sys.executable, str(Path(__file__).with_name("altered_worker.py"))]
RULES = CompiledRules(load())


def measure(spec: Spec, arms: list[Arm], commands: list[list[str] | None]) -> list[ArmMeasurement]:
    """Measure arms, each with its own worker command; None uses the real worker."""
    workers = [
        WorkerArm(spec, arm, timeout=300, command=command or WORKER)
        for arm, command in zip(arms, commands, strict=True)
    ]
    return runner.run_arms(workers, spec.rounds, progress=lambda *_: None, save=lambda _: None)


def plan_pair(spec: Spec) -> list[Arm]:
    """Return AdamW as candidate and as control."""
    (arm,) = plan.plan_arms(RULES, ["adamw"], spec, control=None, implementation=None)
    return [arm, replace(arm, role="control", label="adamw (control)")]


def compare_with_plain_loop() -> Figure:
    """Return the ratio of the harness's optimizer step to that of the plain loop, with its interval."""
    spec = Spec(rounds=40, steps=10)
    harness, plain = measure(spec, plan_pair(spec), [None, [*ALTERED, "plain"]])
    assert not harness.failure, harness.failure
    assert not plain.failure, plain.failure
    return ratio_ci([r["optimizer"] for r in harness.rounds], [r["optimizer"] for r in plain.rounds])


def count_verdicts(runs: int, require: str, command: list[str] | None, max_time: float) -> Counter[str]:
    """Return the verdicts of several comparisons of AdamW with itself.

    Args:
        command: Worker of the candidate; None uses the real worker.
        max_time: Seconds in which rounds are added until the requirement is decided.
    """
    spec = Spec(optimizer_only=True, params=5_000_000, rounds=10, steps=10)
    arms = tuple(plan_pair(spec))
    request = Request(spec, arms, (parse_requirement(require),), timeout=300, max_time=max_time)
    counts: Counter[str] = Counter()
    for number in range(runs):
        commands = (command or WORKER, WORKER)
        workers = [WorkerArm(spec, arm, timeout=300, command=c) for arm, c in zip(arms, commands, strict=True)]
        verdict = str(measure_request(request, workers=workers).verdict)
        counts[verdict] += 1
        print(f"  {require}, run {number + 1} of {runs}: {verdict}", file=sys.stderr, flush=True)
    return counts


def compare_state_bytes() -> tuple[int, list[str]]:
    """Return the number of optimizers compared, and a line for each whose state differs from its card."""
    from optadvise.benchmark import workloads

    spec = Spec(rounds=1, steps=1, warmup=0)
    shapes = [tuple(p.shape) for p in workloads.build("transformer").module.parameters()]
    count, differences = 0, []
    for name in RULES.catalog.optimizer_ids:
        (arm,) = plan.plan_arms(RULES, [name], spec, control=None, implementation=None)
        if arm.companion is not None:  # the contract test counts each of the two optimizers separately
            continue
        (record,) = measure(spec, [replace(arm, unsupported=None)], [None])
        card = RULES.catalog.optimizer(name)
        implementation = next(i for i in card.implementations if i.path == arm.path)
        state = card.state if implementation.state is None else implementation.state
        expected = sum(compute_state_bytes(state, shape) for shape in shapes) + compute_shared_state_bytes(state)
        count += 1
        if record.counts.state_bytes != expected:
            measured = record.counts.state_bytes
            differences.append(f"{name}: {measured} measured, {expected} computed, failure {record.failure}")
    return count, differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=30)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    figure = compare_with_plain_loop()
    ratio, interval = figure.value, figure.interval
    same = count_verdicts(options.runs, "optimizer_seconds <= 1x", None, max_time=0)
    gated = count_verdicts(options.runs, "optimizer_seconds <= 1.05x", None, max_time=120)
    slowed = count_verdicts(options.runs, "optimizer_seconds <= 1.05x", [*ALTERED, "slowed"], max_time=120)
    count, differences = compare_state_bytes()
    spread = "" if interval is None else f" ({interval.low:.3f} to {interval.high:.3f})"
    machine = read_machine()
    lines = [
        f"Measured on {machine.processor}, {machine.cores} cores, {machine.platform}, Python {machine.python}.",
        "",
        "| check | result | target |",
        "|---|---|---|",
        f"| (a) optimizer step, harness / plain loop | {ratio:.3f}{spread} | 0.97 to 1.03 |",
        f"| (b) optimizer compared with itself, {options.runs} runs | {_format_counts(same)} | at most 5 % fail |",
        f"| (c) the same with a bound of 1.05x, {options.runs} runs | {_format_counts(gated)} | at least 80 % pass |",
        f"| (d) slowdown of 10 %, {options.runs} runs | {_format_counts(slowed)} | at least 90 % fail, no pass |",
        f"| (e) state bytes equal to the card | {count - len(differences)} of {count} optimizers | all |",
        *(f"| | different: {line} | |" for line in differences),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("pass", "fail", "inconclusive"))


if __name__ == "__main__":
    main()
