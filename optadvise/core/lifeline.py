"""End of worker processes whose parent has ended, whatever they are doing. Imports no torch.

A worker's stdin is a pipe that only the parent writes to, so it hangs up when the parent closes it or ends in any way.
A thread could not act on that while C code holds Python's lock, so a forked process waits for it: the watchdog.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from typing import NoReturn

_PAUSE_SECONDS = 0.2  # before the next look at stdin, where a system reports messages as well
_owner: int | None = None  # id of the worker process; None in other processes
_FIRST_FILES = 256  # file descriptors that the watchdog closes; pipes that it held open would never end


def end_with_parent() -> None:
    """Fork a process that kills this process group when stdin hangs up; further calls have no effect.

    Call it as early as possible, before threads exist. Only `exit_if_forked` is prepared if this process does not lead
    its group, such as under a shell, or if the system has no fork; there, `ParentConnection` ends the process.
    """
    global _owner
    if _owner == os.getpid():
        return
    _owner = os.getpid()
    if hasattr(os, "fork") and os.getpgrp() == os.getpid():
        _fork_watchdog(lambda: os.killpg(0, signal.SIGKILL))  # the watchdog belongs to the group


def exit_if_forked() -> None:
    """Exit if this process is a copy of the worker, which user code forked and returned from.

    A copy would continue the worker's task, fork again in the same place, and answer the parent.
    """
    if _owner is not None and os.getpid() != _owner:
        os._exit(0)


def remove_with_parent(folder: str) -> None:
    """Fork a process that removes a folder when stdin hangs up."""

    def remove() -> None:
        time.sleep(_PAUSE_SECONDS)  # until the processes that write to it are killed
        shutil.rmtree(folder, ignore_errors=True)

    if hasattr(os, "fork"):
        _fork_watchdog(remove, leads_group=True)


def _fork_watchdog(action: Callable[[], None], *, leads_group: bool = False) -> None:
    """Fork a process that acts when stdin hangs up.

    It is a grandchild: user code that waits for all child processes must not wait for it.

    Args:
        action: Called in the new process, which then exits.
        leads_group: Whether it leaves this process group, to outlive it.
    """
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            if leads_group:
                os.setpgid(0, 0)
            _watch(action)
        os._exit(0)
    os.waitpid(child, 0)


def _watch(action: Callable[[], None]) -> NoReturn:
    try:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        os.closerange(1, _FIRST_FILES)
        poll = select.poll()
        poll.register(0, select.POLLHUP)
        while not any(event & ~select.POLLIN for _, event in poll.poll()):
            time.sleep(_PAUSE_SECONDS)
        action()
    finally:
        os._exit(0)
