"""Check of everything that requires a GPU: measurements beside their expected values.

Usage: python benchmarks/gpu_check [--json FILE] [--markdown FILE] [--quick] [--device cpu]

It takes at most nine minutes on one GPU, changes no setting of it, and allocates at most 4 GB of managed memory, only
if as much is free. Each stage runs in a worker process with a time limit; after a failed stage the others still run.
`--device cpu` runs the stages that are possible on a CPU, in small, to test the check itself.

Exit codes: 0 everything is right; 1 something is wrong; 2 invalid command line; 4 no usable GPU; 5 a stage is
incomplete and nothing is wrong; 130 interrupted, what was measured so far is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # `benchmarks` and the checkout

from gpu_check.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(__doc__))
