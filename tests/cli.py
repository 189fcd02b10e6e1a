"""Run a command line in this process and keep what it says."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

from optadvise.cli.app import run


class Said(NamedTuple):
    code: int
    out: str
    err: str


def optadvise(*arguments: str) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return Said(code, out.getvalue(), err.getvalue())
