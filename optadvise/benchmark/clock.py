"""Clock for the parts of a training step."""

from __future__ import annotations

import itertools
import time

import torch


class Clock:
    """Clock that marks points of a step and returns the seconds between them, by device events on CUDA."""

    def __init__(self, device: str) -> None:
        """Choose the clock of a device."""
        self._is_cuda = device.startswith("cuda")
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def start(self) -> None:
        """Clear earlier marks and make the first."""
        self._events, self._times = [], []
        if self._is_cuda:
            torch.cuda.synchronize()
        self.mark()

    def mark(self) -> None:
        """Make a mark."""
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Wait for the device and return the seconds between neighbouring marks."""
        if self._is_cuda:
            torch.cuda.synchronize()
            return [begin.elapsed_time(end) / 1e3 for begin, end in itertools.pairwise(self._events)]
        return [end - begin for begin, end in itertools.pairwise(self._times)]
