"""Ending a program by SIGTERM, as schedulers and containers do, with the clean-up that Ctrl-C gets."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt within the block when SIGTERM arrives.

    Does nothing outside the main thread, where Python cannot set handlers, and where the program has a handler already.
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
