"""Asks the probe what can be imported here, and outlives whatever importing does. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

PROBE = (sys.executable, "-m", "optadvise.diagnostics.probe")
TIMEOUT = 60.0  # seconds: torch from a cold network disk takes half of that


def ask(
    paths: Iterable[str], *, command: Sequence[str] = PROBE, timeout: float = TIMEOUT
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return what torch says of itself, and for each import path why it cannot be imported, None where it can.

    A package that hangs or takes the process down is named, and another process goes on behind it.

    Args:
        paths: Import paths of classes.
        command: The probe's command line.
        timeout: Seconds that one probe may take.
    """
    left = list(dict.fromkeys(paths))
    torch: dict[str, Any] = {}
    errors: dict[str, str | None] = {}
    while left or not torch:
        answers, end = _probe(command, left, timeout)
        torch = torch or next((a["torch"] for a in answers if "torch" in a), {"imports": False, "error": end})
        if not torch["imports"]:
            return {**torch, "error": _torch_problem(torch["error"])}, {}
        errors.update((a["path"], a["error"]) for a in answers if "path" in a)
        left = [path for path in left if path not in errors]
        if left:
            package = left[0].split(".")[0]
            errors.update((path, end) for path in left if path.split(".")[0] == package)
            left = [path for path in left if path not in errors]
    return torch, errors


def _torch_problem(error: str) -> str:
    if lacks(error, "torch"):
        return "torch is not installed; pip install torch"
    return f"torch cannot be imported ({error}); try python -c 'import torch', or pip install --force-reinstall torch"


def lacks(error: str, package: str) -> bool:
    """Tell whether an import failed because the package itself is not there."""
    return error == f"ModuleNotFoundError: No module named {package!r}"


def _probe(command: Sequence[str], paths: Sequence[str], timeout: float) -> tuple[list[dict[str, Any]], str]:
    """Run one probe and return its answers, and how it ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=log, start_new_session=True)
        except OSError as error:
            return [], f"the probe cannot be started: {error}"
        assert process.stdin is not None
        try:
            with contextlib.suppress(OSError):  # it has ended already, and how it did is said below
                process.stdin.write(json.dumps(list(paths)).encode() + b"\n")
                process.stdin.flush()
            end = _ending(process.wait(timeout))
        except subprocess.TimeoutExpired:
            end = f"no answer within {timeout:g} s"
        finally:
            _stop(process)
        for file in (out, log):
            file.seek(0)
        said, words = (file.read().decode(errors="replace").splitlines() for file in (out, log))
    last = next((f": {word.strip()[:200]}" for word in reversed(words) if word.strip()), "")
    answers = []
    for line in said:
        try:
            answers.append(_answer(line))
        except (ValueError, TypeError, KeyError):
            return answers, f"the probe answered with garbage: {line[:80]!r}"
    return answers, end + (last if end.startswith("the probe") else "")


def _answer(line: str) -> dict[str, Any]:
    data = json.loads(line)
    if "torch" in data:
        return {"torch": {**data["torch"], "imports": data["torch"]["imports"]}}
    return {"path": data["path"], "error": data["error"]}


def _ending(code: int) -> str:
    if code < 0:
        return f"the probe was killed by {signal.Signals(-code).name}"
    return f"the probe ended with exit code {code}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # with what its libraries have started
        else:
            process.kill()
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
