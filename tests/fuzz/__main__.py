"""Run the fuzzer: python -m tests.fuzz --seconds 3600 --seed 1. Print the counts as a Markdown table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import format_table, run_campaign
from tests.fuzz.cases import FindingError
from tests.fuzz.sandbox import Sandbox
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run a campaign and return 1 if it has findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="repeatable (default: all)")
    parser.add_argument("--findings", type=Path, help="new folder for the files of findings (default: a temporary one)")
    typed = parser.parse_args()
    folder = typed.findings or Path(tempfile.mkdtemp(prefix="optadvise-findings-"))

    def report(name: str, error: FindingError) -> None:
        print(f"{name}: {error.signature}\n{error.save(folder)[:500]}\n", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="optadvise-fuzz-") as root:
        counts = run_campaign(typed.seconds, typed.seed, Sandbox(Path(root)), typed.target or (), report)
    print(format_table(counts))
    for name, count in counts.items():
        for signature, times in count.repeated.items():
            print(f"{name}: {signature} ({times} times)")
    return 1 if any(count.findings for count in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
