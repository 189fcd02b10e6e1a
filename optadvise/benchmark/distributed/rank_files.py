"""What ranks leave behind for the parent: process ids, steps, what ended them, and what they said. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What the launcher and the ranks are told by their environment; the last two are process ids.
FOLDER, DEVICE = "OPTADVISE_RANK_DIR", "OPTADVISE_RANK_DEVICE"
PARENT, LAUNCHER = "OPTADVISE_RANK_PARENT", "OPTADVISE_RANK_LAUNCHER"
MARKS = 3  # of each step, so that the rank that the others wait for is told from them
STEP = struct.Struct("q")  # of a rank, in memory that the parent reads
LAUNCHER_ENDED = "the launcher ended"
_EXITS = "exits.json"
_LOST = ("closed by peer", "connection reset", "broken pipe", "socket", "connection refused", "processgroup",
         "timed out waiting")  # fmt: skip
_LAST_LINES = 3


def root_cause(folder: Path, count: int) -> tuple[str, dict[str, Any]]:
    """Return why a run of several ranks ended: in words, and as the failure of the rank that began it.

    A rank that loses the others fails too, and the launcher ends the rest with SIGTERM; so one that failed by itself or
    was killed by something else counts before these.

    Args:
        folder: Where ranks and the launcher left it.
        count: How many ranks there are.
    """
    told = {rank: _failure(folder, rank) for rank in range(count)}
    own = {rank: found for rank, found in told.items() if found is not None and not _lost(found)}
    if own:
        rank = min(own, key=lambda each: own[each]["time"])
        failure = {name: value for name, value in own[rank].items() if name not in ("time", "event")}
        return f"rank {rank}: {failure.pop('error')}{_said(folder, rank, failure['status'])}", failure
    codes = exit_codes(folder)
    killed = [rank for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM]
    ended = [*killed, *(rank for rank in codes if told.get(rank) is None), *codes]
    if not ended:
        return LAUNCHER_ENDED, {"status": "error"}
    rank, code = ended[0], codes[ended[0]]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = ", as the kernel does when memory runs out" if code == -signal.SIGKILL else ""
    return f"rank {rank} {how}{hint}{_said(folder, rank, 'error')}", {"status": "error"}


def behind(folder: Path, count: int) -> str:
    """Return which rank others wait for, and where it is.

    Args:
        folder: Where ranks left it.
        count: How many there are.
    """
    steps = {rank: _step(folder, rank) for rank in range(count)}
    rank = min(steps, key=lambda each: steps[each])
    if count > 1 and len(set(steps.values())) == 1:
        return f"all ranks are in step {steps[rank] // MARKS + 1}"
    return f"rank {rank} hangs in step {steps[rank] // MARKS + 1}{_said(folder, rank, 'error')}"


def join() -> None:
    """Leave this rank's process id, and end with the launcher, whatever this process is doing then."""
    folder, rank = Path(os.environ[FOLDER]), os.environ["RANK"]
    (folder / f"{rank}.pid").write_text(str(os.getpid()), encoding="ascii")
    end_with(int(os.environ[LAUNCHER]), lambda: None)


def end_with(parent: int, before: Callable[[], None]) -> None:
    """End this process when the one that started it is gone; at once, where it is gone already.

    Args:
        parent: Its process id.
        before: Is done before.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        before()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_ranks(folder: Path) -> None:
    """End every rank that began, and what it started: the launcher makes each the leader of a session."""
    for file in folder.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(file.read_text(encoding="ascii")), signal.SIGKILL)


def keep_exit_codes(folder: Path, codes: Mapping[int, int]) -> None:
    """Keep how ranks ended."""
    (folder / _EXITS).write_text(json.dumps(codes), encoding="ascii")


def exit_codes(folder: Path) -> dict[int, int]:
    """Return how ranks ended, as far as the launcher saw it."""
    try:
        found = json.loads((folder / _EXITS).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return {int(rank): code for rank, code in found.items()}


def _failure(folder: Path, rank: int) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / f"{rank}.failure").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _lost(failure: dict[str, Any]) -> bool:
    return any(word in str(failure["error"]).lower() for word in _LOST)


def _step(folder: Path, rank: int) -> int:
    try:
        return int(STEP.unpack((folder / f"{rank}.step").read_bytes())[0])
    except (OSError, struct.error):
        return 0


def _said(folder: Path, rank: int, status: str) -> str:
    """Return the last lines of a rank's log."""
    if status != "error":
        return ""
    for log in sorted(folder.glob(f"**/{rank}/stderr.log")):
        lines = [
            line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        if lines:
            return f"; its log ends with: {' / '.join(line[:120] for line in lines[-_LAST_LINES:])}"
    return ""
