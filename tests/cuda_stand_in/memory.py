"""Memory of a GPU that several processes share, as one file per process. Imports no torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def read_usage(folder: Path, uuid: str) -> dict[int, int]:
    """Return the bytes in use on a GPU, by id of a running process.

    A process locks its file as long as it runs, so the files of processes that have ended are recognized and removed.
    """
    usage: dict[int, int] = {}
    for file in sorted(folder.glob(f"{uuid}.*")):
        with contextlib.suppress(FileNotFoundError), file.open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
            except BlockingIOError:
                usage[int(file.suffix[1:])] = int(stream.read() or 0)
    return usage


class ProcessMemory:
    """Memory of this process on one GPU."""

    def __init__(self, folder: Path, uuid: str) -> None:
        """Store the name of the file, which `open` creates."""
        self._folder, self._uuid = folder, uuid
        self._file: IO[str] | None = None

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Exclude other processes from allocations, and return the bytes that they use."""
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            usage = read_usage(self._folder, self._uuid)
            yield sum(size for pid, size in usage.items() if pid != os.getpid())

    def write(self, used_bytes: int) -> None:
        """Store the bytes that this process uses; the caller has the lock."""
        if self._file is None:
            self._file = (self._folder / f"{self._uuid}.{os.getpid()}").open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(used_bytes))
        self._file.flush()
