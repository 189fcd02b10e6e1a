"""Clock for the parts of a training step."""

from __future__ import annotations

import itertools
import time

import torch


class Clock:
    """Clock that measures the seconds between marks in a step: with device events on CUDA, else after synchronizing."""

    def __init__(self, device: str) -> None:
        """Select CUDA events or the CPU clock for a device."""
        self._is_cuda = device.startswith("cuda")
        self._waits = device != "cpu" and not self._is_cuda
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def start(self) -> None:
        """Clear the marks and set the first."""
        self._events, self._times = [], []
        if self._is_cuda:
            torch.cuda.synchronize()
        self.mark()

    def mark(self) -> None:
        """Set a mark."""
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
            return
        if self._waits:
            torch.accelerator.synchronize()
        self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Wait for the device and return the seconds between consecutive marks."""
        if self._is_cuda:
            torch.cuda.synchronize()
            return [begin.elapsed_time(end) / 1e3 for begin, end in itertools.pairwise(self._events)]
        return [end - begin for begin, end in itertools.pairwise(self._times)]
