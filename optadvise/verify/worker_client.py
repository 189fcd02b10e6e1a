"""A worker process that answers questions, one JSON line each, and is replaced when it hangs or dies."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

WORKER = (sys.executable, "-m", "optadvise.verify.worker")


class Worker:
    """A worker that is started when it is asked, and anew after it died or hung."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: _Process | None = None

    def ask(self, question: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer, or under "error" how the process ended.

        Args:
            question: What the worker reads, as plain data.
            timeout: Seconds that it may take.
        """
        self._process = self._process or _Process(self._command)
        answer, end = self._process.ask(question, timeout)
        if answer is None:
            self.stop()
        return {"error": end} if answer is None else answer

    def stop(self) -> None:
        """End its process, if it has one."""
        if self._process is not None:
            self._process.stop()
            self._process = None


class _Process:
    """A worker's process, whose answers a thread reads."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, question: Mapping[str, Any], timeout: float) -> tuple[dict[str, Any] | None, str]:
        """Return the worker's answer, or how it ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=min(timeout, threading.TIMEOUT_MAX))
        except queue.Empty:
            return None, f"gave no answer within {timeout:g} seconds"
        if not line:
            return None, f"ended its process with code {self._process.wait()}"
        found: dict[str, Any] = json.loads(line)
        return found, ""

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it did not read is lost
                if pipe is not None:
                    pipe.close()
