"""Clock for the parts of a training step."""

from __future__ import annotations

import itertools
import time

import torch


class Clock:
    """Clock that measures the seconds between marks in a step, with device events on CUDA."""

    def __init__(self, device: str) -> None:
        """Select CUDA events or the CPU clock for a device; with the CPU clock, a mark waits for another device."""
        kind = device.split(":")[0]
        self._is_cuda, self._is_cpu = kind == "cuda", kind == "cpu"
        self._wait = (lambda: None) if kind == "cpu" else getattr(torch, kind).synchronize
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []
        self._cpu_start = 0.0
        self.cpu_seconds: float | None = None  # of this thread from the first to the last mark; None with a GPU

    def start(self) -> None:
        """Clear the marks and set the first."""
        self._events, self._times = [], []
        if self._is_cuda:
            self._wait()
        self._cpu_start = time.thread_time()
        self.mark()

    def mark(self) -> None:
        """Set a mark."""
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._wait()
            self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Wait for the device and return the seconds between consecutive marks."""
        if self._is_cuda:
            self._wait()
            return [begin.elapsed_time(end) / 1e3 for begin, end in itertools.pairwise(self._events)]
        if self._is_cpu:
            self.cpu_seconds = time.thread_time() - self._cpu_start
        return [end - begin for begin, end in itertools.pairwise(self._times)]
