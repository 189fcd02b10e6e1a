"""End of worker processes and of all processes that they started. Imports no torch.

A worker's stdin is a pipe that only the parent writes to, so it hangs up when the parent closes it or ends in any way.
A thread could not act on that while C code holds Python's lock, so another process waits for it. On Linux this is the
process that the parent started, the supervisor: the worker runs in its child process. As a subreaper, the supervisor
adopts every descendant that loses its parent, including those that left the process group, such as daemons. Other
systems have no subreapers: there, a forked process, the watchdog, kills the worker's process group.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from typing import NoReturn

_PAUSE_SECONDS = 0.2  # before the next look at stdin, where a system reports messages as well
_KILL_SECONDS = 10.0  # maximum time for killed processes to end: large memory and GPU drivers take a while
_POLL_SECONDS = 0.01  # between checks whether they have ended
_FIRST_FILES = 256  # file descriptors that a watching process closes; pipes that it held open would never end
_SUPERVISOR_SIGNALS = {signal.SIGTERM, signal.SIGCHLD} if hasattr(signal, "SIGCHLD") else set()
_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE, _SET_CHILD_SUBREAPER = 1, 4, 36  # options of Linux's prctl
_owner: int | None = None  # id of the worker process; None in other processes
_supervisor = 0  # id of its supervisor; 0 without one


def end_with_parent() -> None:
    """Ensure that this process and its descendants end when stdin hangs up; further calls have no effect.

    On Linux this call returns in a forked process, whose descendants also end with it. Call it as early as possible,
    before threads exist. Only `exit_if_forked` is prepared if this process does not lead its group, such as under a
    shell, or if the system has no fork; there, `ParentConnection` ends the process.
    """
    global _owner
    if _owner == os.getpid():
        return
    if hasattr(os, "fork") and os.getpgrp() == os.getpid():
        if sys.platform == "linux":
            _fork_worker()
        else:
            _fork_watchdog(lambda: os.killpg(0, signal.SIGKILL))  # the watchdog belongs to the group
    _owner = os.getpid()


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
        _fork_watchdog(remove, group=_supervisor)  # without a supervisor, a new group


# -- Linux ------------------------------------------------------------------------------------------------------------


def _fork_worker() -> None:
    """Return in a new process, which leads its own group; this process becomes its supervisor."""
    global _supervisor
    _supervisor = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SUPERVISOR_SIGNALS)  # until the supervisor handles them
    _prctl(_SET_CHILD_SUBREAPER, 1)
    worker = os.fork()
    if worker:
        _supervise(worker)
    os.setpgid(0, 0)  # a signal that user code sends to its group must not end the supervisor
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(ImportError, OSError, AttributeError):  # Python without ctypes
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _supervise(worker: int) -> NoReturn:
    """Wait for the end of the worker, of stdin, or SIGTERM; kill all descendants and exit as the worker did."""
    try:
        _ignore_signals(_SUPERVISOR_SIGNALS)
        os.closerange(1, _FIRST_FILES)
        with contextlib.suppress(OSError):  # the worker, which does the same, has ended
            os.setpgid(worker, worker)
        code = _wait_for_end(worker)
        _kill_descendants(worker)
        if code < 0:
            _prctl(_SET_DUMPABLE, 0)  # the worker has written the core file
            with contextlib.suppress(OSError):  # SIGKILL needs no handler
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)
    finally:
        os._exit(1)


def _wait_for_end(worker: int) -> int:
    """Wait for the end of the worker or of stdin, or for SIGTERM.

    Returns:
        The worker's exit code, negative for a signal; -SIGTERM if the worker is still running.
    """
    signals, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    for number in _SUPERVISOR_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SUPERVISOR_SIGNALS)
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    poll.register(signals, select.POLLIN)
    while True:
        if any(file == 0 for file, _ in poll.poll()) or signal.SIGTERM in os.read(signals, 4096):
            return -signal.SIGTERM
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                return os.waitstatus_to_exitcode(ended[1])


def _kill_descendants(worker: int) -> None:
    """Kill all descendants of this process: those of a killed process become its children, and are killed next."""
    with contextlib.suppress(OSError):
        os.killpg(worker, signal.SIGKILL)  # also if /proc is not available
    until = time.monotonic() + _KILL_SECONDS
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            time.sleep(_POLL_SECONDS)
            children = _list_children()
            if not children:
                break
            for child in children:
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)


def _list_children() -> list[int]:
    """Return the ids of this process's children, without those in its group, which end by themselves.

    None are known if /proc is missing or has the ids of another namespace.
    """
    children: list[int] = []
    try:
        is_ours = os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115, pathlib takes long to import
        names = os.listdir("/proc") if is_ours else []  # noqa: PTH208
    except OSError:
        return children
    for name in filter(str.isdigit, names):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            _, parent, group, *_ = file.read().rpartition(b")")[2].split()
            if int(parent) == os.getpid() != int(group):
                children.append(int(name))
    return children


# -- watchdog ---------------------------------------------------------------------------------------------------------


def _fork_watchdog(action: Callable[[], None], *, group: int | None = None) -> None:
    """Fork a process that acts when stdin hangs up.

    It is a grandchild: user code that waits for all child processes must not wait for it.

    Args:
        action: Called in the new process, which then exits.
        group: Process group that it joins, to outlive this group; 0 for a new one, None to stay.
    """
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            if group is not None:
                os.setpgid(0, group)
            _watch(action)
        os._exit(0)
    os.waitpid(child, 0)


def _watch(action: Callable[[], None]) -> NoReturn:
    try:
        _ignore_signals()
        os.closerange(1, _FIRST_FILES)
        poll = select.poll()
        poll.register(0, select.POLLHUP)
        while not any(event & ~select.POLLIN for _, event in poll.poll()):
            time.sleep(_PAUSE_SECONDS)
        action()
    finally:
        os._exit(0)


def _ignore_signals(handled: Collection[int] = ()) -> None:
    """Ignore all signals but those that have a handler."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *handled}:
        signal.signal(number, signal.SIG_IGN)
