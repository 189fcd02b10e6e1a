"""Speed of recommendations: whole processes in alternation, then calls within one process.

Usage: python benchmarks/speed.py [ROUNDS]

Prints ratios measured in one run, because absolute times on a shared machine vary. Targets: recommend --json at most
2.2 times a one-command Typer program and at most 1/10 of `import torch`; estimate --all no slower than recommend; 5,000
recommendations per second; rules read without cache in 60 ms.
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


def time_process(command: list[str]) -> float:
    """Return the run time of a process in seconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def compare_processes(first: list[str], second: list[str], rounds: int) -> tuple[float, float, float]:
    """Return the median ratio of two commands run in alternation, and the median seconds of each."""
    pairs = [(time_process(first), time_process(second)) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def find_minimum_time(action: Callable[[], object], repeats: int) -> float:
    """Return the minimum seconds of several calls, which other load affects least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    # As pip does; with PYTHONDONTWRITEBYTECODE, a checkout would be compiled at every start.
    compileall.compile_dir(Path(optadvise.__file__).parent, quiet=1)
    recommend_command = [
        sys.executable,
        "-m",
        "optadvise",
        "recommend",
        "--model",
        "transformer",
        "--vram",
        "24GB",
        "--json",
    ]
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO, encoding="utf-8")
        hello_ratio, recommend_seconds, hello_seconds = compare_processes(
            recommend_command, [sys.executable, str(hello)], rounds
        )
    torch_ratio, _, torch_seconds = compare_processes(
        recommend_command, [sys.executable, "-c", "import torch"], max(3, rounds // 3)
    )
    times = f"{recommend_seconds:.3f} s / {hello_seconds:.3f} s"
    print(f"recommend --json / typer hello      {hello_ratio:6.2f}  at most 2.20  ({times})")
    recommend_7b = [sys.executable, "-m", "optadvise", "recommend", "--params", "7B", "--json"]
    estimate_7b = [sys.executable, "-m", "optadvise", "estimate", "--params", "7B", "--all", "--json"]
    estimate_ratio, *_ = compare_processes(estimate_7b, recommend_7b, rounds)
    print(f"estimate --all --json / recommend   {estimate_ratio:6.2f}  at most 1.00, both with --params 7B")
    print(f"recommend --json / import torch     {torch_ratio:6.3f}  at most 0.100 (torch {torch_seconds:.2f} s)")

    rules = CompiledRules(load())
    situations = [complete_situation(rules, answers) for answers in SITUATIONS]
    calls = 200 * len(situations)
    seconds = find_minimum_time(lambda: [recommend(rules, s) for s in situations for _ in range(200)], 5)
    print(f"recommendations per second          {calls / seconds:6.0f}  at least 5000")

    os.environ["OPTADVISE_NO_CACHE"] = "1"
    load()  # import yaml before the timing
    load_seconds = find_minimum_time(load, 7)
    print(f"rules from YAML, no cache           {load_seconds * 1000:6.0f}  at most 60 ms")


if __name__ == "__main__":
    main()
