"""Lock on a GPU while this process measures on it, so that two benchmarks do not slow each other.

The lock ends with the process. Its file is in the system's folder of temporary files, which all users share.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from optadvise.core.errors import OptadviseWarning

_POLL_SECONDS = 0.5


@contextlib.contextmanager
def hold_gpus(uuids: Iterable[str]) -> Iterator[None]:
    """Hold the locks of GPUs, and wait while another process measures on one; print one line if this waits.

    Args:
        uuids: UUIDs of the GPUs, which may be empty.
    """
    with contextlib.ExitStack() as stack:
        for uuid in sorted(set(uuids)):  # in the same order in each process, so that none waits for another in a circle
            stack.enter_context(_hold(uuid))
        yield


@contextlib.contextmanager
def _hold(uuid: str) -> Iterator[None]:
    file = Path(tempfile.gettempdir()) / f"optadvise-{re.sub(r'[^0-9A-Za-z-]', '-', uuid)}.lock"
    lock = FileLock(file, mode=0o666)  # other users wait for it, too
    try:
        _acquire(lock, file)
    except (OSError, NotImplementedError) as error:
        message = f"the GPU is not locked ({error}), so another benchmark on it would slow this one"
        warnings.warn(message, OptadviseWarning, stacklevel=2)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, file: Path) -> None:
    """Acquire a lock; while another process has it, print one line and wait.

    Raises:
        OSError: The file cannot be created, or belongs to another user.
        NotImplementedError: The file system has no locks.
    """
    is_waiting = False
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not is_waiting:
                message = f"{_describe_holder(file)} is measuring on this GPU; waiting until it ends (Ctrl-C cancels)"
                warnings.warn(message, OptadviseWarning, stacklevel=2)
            is_waiting = True
            time.sleep(_POLL_SECONDS)
        else:
            return


def _describe_holder(file: Path) -> str:
    """Return the process that has locked a file, as Linux lists it."""
    with contextlib.suppress(OSError, ValueError):
        inode = file.stat().st_ino
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            *_, process, place, _, _ = line.split()  # place: major:minor:inode
            if place.endswith(f":{inode}") and int(process) > 0:
                return f"process {process}"
    return "another process"
