"""Interruption of commands by Ctrl-C or SIGTERM, which job schedulers and containers send."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

_REPEAT_SECONDS = 5.0  # further signals within this time belong to the first: the command is already ending


class _Interrupts:
    """Signal handler that raises KeyboardInterrupt, but not while results are written."""

    def __init__(self) -> None:
        self._time = -_REPEAT_SECONDS  # of the last interruption, in seconds of the monotonic clock
        self._is_held = False
        self._is_pending = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._time < _REPEAT_SECONDS:
            return
        self._time = now
        self._is_pending = self._is_held
        if not self._is_held:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt


_interrupts = _Interrupts()
hold_interrupts = _interrupts.hold  # delays interruptions to the end of a block that writes results


def install_handlers() -> None:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM, unless the process that started this one ignores them.

    The command line calls this; a program that uses the library keeps its own handlers.
    """
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is default:
            signal.signal(number, _interrupts.handle)
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise the exit codes of workers are lost


def ignore_signals() -> None:
    """Ignore further signals: the interpreter restores the default handlers before it exits, with another exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) == _interrupts.handle:
            signal.signal(number, signal.SIG_IGN)
