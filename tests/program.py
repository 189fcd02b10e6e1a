"""Run the text of a program that imports torch, as `python -c` does: `python -m tests.program TEXT`.

Tests use it instead of `python -c`, because the fork server has torch imported.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.argv[0] = "-c"
    exec(compile(sys.argv.pop(1), "<string>", "exec"), {"__name__": "__main__"})
