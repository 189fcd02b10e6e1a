"""Stages of the GPU check that fail in every way, for its tests."""

from __future__ import annotations

import os
import signal
import time

from gpu_check.records import Check, Item, Settings

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError


def list_good_items(settings: Settings) -> list[Item]:
    return [Item("good", lambda: [Check(name="good", is_right=True, measured=settings.device)])]


def list_no_items(settings: Settings) -> list[Item]:
    raise RuntimeError("no items")


def list_skipped_items(settings: Settings) -> list[Item]:
    raise CannotRunHereError("requires two GPUs", code=ErrorCode.MISSING_DEVICE)


def list_failing_items(settings: Settings) -> list[Item]:
    """Return items that raise, crash and hang, each followed by one that works."""

    def fail() -> list[Check]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def skip() -> list[Check]:
        raise CannotRunHereError("too little memory", code=ErrorCode.OUT_OF_MEMORY)

    def crash() -> list[Check]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    def hang() -> list[Check]:
        time.sleep(600)
        return []

    (good,) = list_good_items(settings)
    failing = {"fail": fail, "skip": skip, "crash": crash, "hang": hang}
    items = [[Item(name, measure), good._replace(name=f"after {name}")] for name, measure in failing.items()]
    return [item for pair in items for item in pair]


def list_hanging_items(settings: Settings) -> list[Item]:
    """Hang before the first item, which takes the time of the stage."""
    time.sleep(600)
    return []
