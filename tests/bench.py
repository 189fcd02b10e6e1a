"""Invalid workloads and helpers for processes, for the tests of `optadvise bench`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jsonschema

from tests.fork_server import process_name
from tests.results import SCHEMAS

_WORKER = "optadvise.benchmark.worker"

# Module of the workloads `mine:NAME`, in the folder that a test runs in.
MINE = """
import os, pathlib, shutil, time
import torch

def plain(pause=0.0):
    torch.manual_seed(0)
    module = torch.nn.Linear(64, 2)
    batches = [(torch.randn(8, 64), torch.randint(0, 2, (8,)))]

    def loss(module, batch):
        time.sleep(pause)
        return torch.nn.functional.cross_entropy(module(batch[0]), batch[1])

    return module, batches, loss

def slow():
    return plain(0.1)

def chatty():
    print("chatter")
    os.write(1, b"chatter past Python\\n")
    os.system("echo chatter of a child")
    return plain()

def out_of_memory():
    raise MemoryError("no room for the data")

def huge():
    return torch.nn.Linear(2**30, 2**24), [torch.zeros(1)]

def diverging():
    module, batches, loss = plain()
    return module, batches, lambda module, batch: loss(module, batch) * float("inf")

def raising():
    raise ValueError("no data\\nin this folder")

def nothing():
    return None

def folderless():
    shutil.rmtree("results")
    return plain()

def ending():
    module, batches, loss = plain()
    return module, iter(batches), loss
"""


def started(*arguments: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command line in its own process and session."""
    return subprocess.Popen(
        [sys.executable, "-m", "optadvise", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def list_workers(parent: int | None = None) -> list[int]:
    """Return the ids of the worker processes of a process, oldest first, without the processes of their sessions."""
    parent = os.getpid() if parent is None else parent
    return [pid for pid in _list_processes() if _describe_process(pid) == (parent, True) and _find_session(pid) == pid]


def list_processes(sessions: Collection[int]) -> list[int]:
    """Return the ids of the processes of some sessions, without those that have ended."""
    return [pid for pid in _list_processes() if _is_running(pid) and _find_session(pid) in sessions]


def _find_session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _list_processes() -> list[int]:
    return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _describe_process(pid: int) -> tuple[int, bool]:
    """Return the id of a process's parent, and whether the process is a worker."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return parent, _WORKER in command or Path(f"/proc/{pid}/comm").read_text("utf-8").strip() == process_name(
            _WORKER
        )
    except OSError:  # it has ended
        return 0, False


def list_processes_in(folder: Path) -> list[int]:
    """Return the ids of the processes whose working directory is the folder, without this process."""
    return [pid for pid in _list_processes() if _runs_in(folder, Path(f"/proc/{pid}"))]


def await_end_of_processes_in(folder: Path, seconds: float = 2.0) -> bool:
    """Return whether all processes whose working directory is the folder end in time."""
    until = time.monotonic() + seconds
    while is_running := bool(list_processes_in(folder)):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return not is_running


def _runs_in(folder: Path, process: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder and process.name != str(os.getpid())
    except OSError:  # the process has ended
        return False


def ended(pids: list[int], seconds: float = 3.0) -> bool:
    """Return whether all processes end, or become zombies, within some seconds."""
    until = time.monotonic() + seconds
    while alive := [pid for pid in pids if _is_running(pid)]:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return not alive


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def find_error_line(err: str) -> str:
    """Return the last line of stderr, which must be the only line of an error."""
    *progress, line = err.splitlines()
    assert line.startswith("optadvise: "), err
    assert not any(each.startswith(("optadvise: ", "Traceback")) for each in progress), err
    return line.removeprefix("optadvise: ")


def parse_result(text: str) -> dict[str, Any]:
    """Parse a result and validate it against its schema."""
    data: dict[str, Any] = json.loads(text)
    jsonschema.validate(data, SCHEMAS["bench"])
    return data
