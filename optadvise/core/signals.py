"""Clean shutdown on SIGTERM, which job schedulers and containers send."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt within the block on SIGTERM.

    Has no effect outside the main thread, where Python cannot set handlers, or if a handler is already set.
    """
    is_settable = threading.current_thread() is threading.main_thread()
    if not is_settable or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
