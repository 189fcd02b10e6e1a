"""Command line with workers that answer without torch, until one hangs.

The worker that hangs has two child processes, one with its own session. It holds Python's lock, and creates the file
`hanging`. It is the one of Lion in its third round, of the second experiment, or of the third class or optimizer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from optadvise.cli.app import main
from optadvise.core import worker

_WORKER = f"""
import ctypes, json, os, subprocess, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from optadvise.core import lifeline

lifeline.end_with_parent()
answers = 0

def send(**message):
    print(json.dumps(message), flush=True)

def hang():
    subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    open("hanging", "w").close()
    ctypes.PyDLL(None).sleep(600)

def answer(message):
    if "arm" in message:
        global is_lion
        is_lion = message["arm"]["optimizer"] == "lion"
        send(event="ready", first_step_seconds=0.1, state_bytes=8, state_bytes_per_parameter=8.0)
    elif message.get("command") == "round":
        if is_lion and answers == 3:
            hang()
        send(event="round", samples={{"step": [0.1], "optimizer": [0.1]}})
    elif message.get("command") == "finish":
        send(event="done", finite=True)
    elif message.get("request") == "devices":
        send(answer="devices", devices=["cpu"])
    elif message.get("request") == "experiment":
        if answers == 2:
            hang()
        send(answer="figure", value=0.5)
    elif "paths" in message:
        send(answer="torch", imports=True, version="2.9")
        for path in message["paths"][:2]:
            send(answer="import", path=path, error=None)
        hang()
    elif "optimizers" in message:
        send(answer="activity", text="its training step")
        hang()

for line in sys.stdin:
    answer(json.loads(line))
    answers += 1
"""


def start_fake_worker(
    command: Sequence[str], environment: Mapping[str, str] | None, stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a fake worker instead of the command."""
    return _start((sys.executable, "-S", "-c", _WORKER), environment, stderr)


_start = worker.start_process


def run() -> None:
    """Run the command line of this process."""
    worker.start_process = start_fake_worker
    main()
