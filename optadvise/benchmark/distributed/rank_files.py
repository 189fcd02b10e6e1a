"""Files that ranks write for the parent: progress, failures and logs. Imports no torch."""

from __future__ import annotations

import json
import signal
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from optadvise.benchmark.measurement import ArmFailure
from optadvise.core.error_codes import ErrorCode
from optadvise.core.files import replace_file
from optadvise.core.foreign import ForeignFileError, clean_strings
from optadvise.core.text import clean_text

FOLDER_PREFIX = "optadvise-ranks-"  # of the folder that the parent creates and the launcher removes
FOLDER, DEVICE = "OPTADVISE_RANK_DIR", "OPTADVISE_RANK_DEVICE"  # environment variables of the launcher and the ranks
MARKS = 3  # progress marks per step, which distinguish the slowest rank from ranks that wait for it
STEP = struct.Struct("q")  # progress of a rank, in a memory-mapped file
LAUNCHER_ENDED = "the launcher ended"
_EXITS = "exits.json"
# Messages of a rank that lost its connection because another rank failed.
_LOST_CONNECTION = (
    "closed by peer", "connection reset", "broken pipe", "socket", "connection refused", "processgroup",
    "timed out waiting",
)  # fmt: skip
_LAST_LINES = 3
Content = TypeVar("Content")


class RankFailure(Struct, frozen=True):
    """Failure of a rank with its time."""

    failure: ArmFailure
    time: float  # seconds since the epoch

    @property
    def is_lost_connection(self) -> bool:
        """Return whether the rank failed because another rank had failed."""
        return any(phrase in self.failure.error.lower() for phrase in _LOST_CONNECTION)


def find_root_cause(folder: Path, count: int) -> ArmFailure:
    """Return the failure of the rank that failed first.

    Ranks that lose their connection fail too, and the launcher terminates the remaining ranks with SIGTERM. So an
    exception in a rank or another signal takes precedence.
    """
    reports = {rank: _read_json(folder / f"{rank}.failure", RankFailure) for rank in range(count)}
    failures = {rank: report for rank, report in reports.items() if report is not None}
    causes = {rank: report for rank, report in failures.items() if not report.is_lost_connection}
    if causes:
        rank = min(causes, key=lambda each: causes[each].time)
        failure = causes[rank].failure
        log = _read_log_end(folder, rank) if failure.status == "error" else ""
        return msgspec.structs.replace(failure, error=f"rank {rank}: {failure.error}{log}")
    codes = read_exit_codes(folder)
    killed = [rank for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM]
    ended = [*killed, *(rank for rank in codes if rank not in failures), *codes]
    if not ended:
        return ArmFailure(status="error", error=LAUNCHER_ENDED, code=ErrorCode.WORKER_FAILED)
    error = _describe_exit(folder, ended[0], codes[ended[0]])
    return ArmFailure(status="error", error=error, code=ErrorCode.WORKER_FAILED)


def _describe_exit(folder: Path, rank: int, code: int) -> str:
    outcome = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " (probably out of memory)" if code == -signal.SIGKILL else ""
    return f"rank {rank} {outcome}{hint}{_read_log_end(folder, rank)}"


def describe_slowest_rank(folder: Path, count: int) -> str:
    """Describe which rank the others wait for, and in which step."""
    steps = {rank: _read_step(folder, rank) for rank in range(count)}
    rank = min(steps, key=lambda each: steps[each])
    if count > 1 and len(set(steps.values())) == 1:
        return f"all ranks are in step {steps[rank] // MARKS + 1}"
    return f"rank {rank} is stuck in step {steps[rank] // MARKS + 1}{_read_log_end(folder, rank)}"


def write_exit_codes(folder: Path, codes: Mapping[int, int]) -> None:
    """Write the exit codes of ranks; negative codes are signals."""
    replace_file(folder / _EXITS, msgspec.json.encode(codes))


def read_exit_codes(folder: Path) -> dict[int, int]:
    """Return the exit codes of the ranks that the launcher saw fail."""
    return _read_json(folder / _EXITS, dict[int, int]) or {}


def write_failure(folder: Path, rank: int, failure: ArmFailure) -> None:
    """Write the failure of a rank with the current time."""
    replace_file(folder / f"{rank}.failure", msgspec.json.encode(RankFailure(failure, time.time())))


def _read_json(file: Path, kind: type[Content]) -> Content | None:
    """Return the content of a file; None if it does not exist or is incomplete."""
    try:
        return msgspec.convert(clean_strings(json.loads(file.read_bytes())), kind, str_keys=True)
    except (OSError, ValueError, RecursionError, ForeignFileError):
        return None


def _read_step(folder: Path, rank: int) -> int:
    try:
        return int(STEP.unpack((folder / f"{rank}.step").read_bytes())[0])
    except (OSError, struct.error):
        return 0


def _read_log_end(folder: Path, rank: int) -> str:
    """Return the last lines of a rank's log as a clause; empty if the log is empty."""
    for log in sorted(folder.glob(f"**/{rank}/stderr.log")):
        content = log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in content.splitlines() if line.strip()]
        if lines:
            return f"; last log lines: {' / '.join(clean_text(line, 120) for line in lines[-_LAST_LINES:])}"
    return ""
