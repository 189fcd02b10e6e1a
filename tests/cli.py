"""Run a command line in this process and keep its output."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

from optadvise.cli.app import run
from optadvise.cli.failures import Failure, report_failure


class CommandResult(NamedTuple):
    """What a command line printed, and its failure: tests assert `error.code`, not sentences."""

    code: int
    out: str
    err: str
    failure: Failure | None = None

    @property
    def error(self) -> str:
        """Return the stable code of the failure, or empty."""
        return "" if self.failure is None else self.failure.code


def optadvise(*arguments: str) -> CommandResult:
    """Run a command line."""
    out, err = io.StringIO(), io.StringIO()
    failures = []

    def keep(failure: Failure, arguments: Sequence[str]) -> None:
        failures.append(failure)
        report_failure(failure, arguments)

    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments), keep)
    return CommandResult(code, out.getvalue(), err.getvalue(), failures[-1] if failures else None)
