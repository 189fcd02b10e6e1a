"""How fast the advice is: whole processes against each other in turn, then calls inside one process.

Usage: python benchmarks/speed.py [ROUNDS]

Prints ratios taken in one run, as times on a shared machine mean little. Targets: recommend --json at most 2.2 times a
one-command Typer program and at most 1/10 of `import torch`; estimate --all no slower than recommend; 5,000
recommendations a second; rules read cold in 60 ms.
"""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optadvise
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.recommend import recommend
from optadvise.rulebase.catalog import load

HELLO = """
import typer

def main(name: str = "world") -> None:
    print(f"hello {name}")

typer.run(main)
"""
SITUATIONS: tuple[dict[str, Any], ...] = (
    {"model": "transformer", "vram_bytes": 24 * 2**30},
    {},
    {"model": "cnn", "tuning": "high", "batch_size": 1024},
    {"model": "gan"},
    {"model": "transformer", "method": "qlora", "params": 65 * 10**9, "vram_bytes": 48 * 2**30},
    {"model": "transformer", "params": 8 * 10**9, "vram_bytes": 24 * 2**30, "task": "finetune"},
)


def seconds(command: list[str]) -> float:
    """Return how long a whole process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def paired(first: list[str], second: list[str], rounds: int) -> tuple[float, float, float]:
    """Return the median ratio of two commands run in turn, and the median of each."""
    pairs = [(seconds(first), seconds(second)) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def best(action: Callable[[], object], repeats: int) -> float:
    """Return the shortest of several runs, which other load disturbs least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    # pip compiles what it installs; a checkout under PYTHONDONTWRITEBYTECODE would compile at every start instead.
    compileall.compile_dir(Path(optadvise.__file__).parent, quiet=1)
    advise = [sys.executable, "-m", "optadvise", "recommend", "--model", "transformer", "--vram", "24GB", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO, encoding="utf-8")
        against_hello, ours, theirs = paired(advise, [sys.executable, str(hello)], rounds)
    against_torch, _, torch = paired(advise, [sys.executable, "-c", "import torch"], max(3, rounds // 3))
    print(f"recommend --json / typer hello      {against_hello:6.2f}  at most 2.20  ({ours:.3f} s / {theirs:.3f} s)")
    sized = [sys.executable, "-m", "optadvise", "recommend", "--params", "7B", "--json"]
    estimate = [sys.executable, "-m", "optadvise", "estimate", "--params", "7B", "--all", "--json"]
    against_advice, *_ = paired(estimate, sized, rounds)
    print(f"estimate --all --json / recommend   {against_advice:6.2f}  at most 1.00, both for --params 7B")
    print(f"recommend --json / import torch     {against_torch:6.3f}  at most 0.100 (torch {torch:.2f} s)")

    rules = CompiledRules(load())
    complete = [complete_situation(rules, answers) for answers in SITUATIONS]
    each = best(lambda: [recommend(rules, s) for s in complete for _ in range(200)], 5) / (200 * len(complete))
    print(f"recommendations a second            {1 / each:6.0f}  at least 5000")

    os.environ["OPTADVISE_NO_CACHE"] = "1"
    load()  # import yaml once: reading is what is timed
    cold = best(load, 7)
    print(f"rules from YAML, no cache           {cold * 1000:6.0f}  at most 60 ms")


if __name__ == "__main__":
    main()
