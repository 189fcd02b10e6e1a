"""Starts the process that steps under fake tensors, and outlives whatever it does. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import IO, Any

from msgspec import Struct

from optadvise.core.errors import CannotRunHereError, InputError

FAKESTEP = (sys.executable, "-m", "optadvise.fake_tensors.worker")
BUDGET = 30.0  # seconds that one optimizer may take; for 7B parameters the slowest took half of that on two cores


class Peak(Struct, frozen=True):
    """Bytes alive at the peak of the forward and the backward pass, by what they are for."""

    weights: int
    gradients: int
    activations: int  # made by the forward pass, also where it runs again for a checkpoint, and by autocast
    temporaries: int  # made by the backward pass, gradients of weights not among them
    other: int  # buffers, the batch, and what else the user's code holds


class Shape(Struct, frozen=True):
    """Parameters that are alike."""

    shape: tuple[int, ...]
    dtype: str  # without `torch.`
    trained: bool
    tensors: int  # how many


class OptimizerStep(Struct, frozen=True):
    """What an optimizer keeps and needs, on the CPU's fake tensors as everywhere."""

    id: str
    status: str  # measured or unsupported
    reason: str | None  # one line, where it is unsupported
    state_bytes: int | None  # all that it keeps between steps; None where it is unsupported, as are the next two
    step_peak_bytes: int | None  # everything alive at the peak of its second step
    temporary_bytes: int | None  # of which live only during the step


class FakeStep(Struct, frozen=True):
    """One training step as fake tensors show it, with every optimizer that they can step."""

    device: str  # cuda, or cpu made to count as cuda
    parameters: int
    trainable_parameters: int
    weights_bytes: int  # trained and frozen
    buffers_bytes: int
    batch_bytes: int
    gradients_bytes: int
    peak_bytes: int  # of the forward and the backward pass, without optimizer state
    peak: Peak
    samples: int | None  # in the batch; None where it holds no tensors
    shapes: tuple[Shape, ...]  # of all parameters
    seconds: float
    optimizers: tuple[OptimizerStep, ...]  # in the order given

    def training_peak(self, optimizer: OptimizerStep) -> int | None:
        """Return the bytes that training needs with an optimizer; None where it could not be stepped."""
        if optimizer.state_bytes is None or optimizer.step_peak_bytes is None:
            return None
        return max(self.peak_bytes + optimizer.state_bytes, optimizer.step_peak_bytes)


class _Gone(Exception):  # noqa: N818, it is one of the ways to end
    """The process ended, or had to be ended, before it had answered everything."""

    def __init__(self, why: str, remedy: str = "", *, late: bool = False) -> None:
        super().__init__(why)
        self.remedy = remedy
        self.late = late  # it could have gone on


def measure(
    spec: str,
    precision: str,
    optimizers: Sequence[Mapping[str, Any]],
    *,
    timeout: float,
    seed: int = 0,
    budget: float = BUDGET,
    command: Sequence[str] = FAKESTEP,
) -> FakeStep:
    """Run one training step of the user's module under fake tensors, and step optimizers on its gradients.

    Args:
        spec: `package.module:function`, imported with the current directory on `sys.path`; `bench.user` says what it
            returns. It is called under fake tensors, so that a model of any size takes no memory.
        precision: `fp32`, `bf16`, `amp-bf16` or `amp-fp16`.
        optimizers: For each `id`, `import` path and `kwargs`, and `package` for the advice where it is missing.
        timeout: Seconds for everything together.
        seed: Of torch's and Python's generators.
        budget: Seconds for each optimizer.
        command: The process's command line, for tests of its faults.

    Raises:
        InputError: The function, what it returned or its step is wrong, needs the values of tensors or does not end.
        CannotRunHereError: torch is missing, or the process crashed before the step was measured.
    """
    request = {
        "spec": spec, "precision": precision, "seed": seed, "budget": budget,
        "optimizers": [dict(entry) for entry in optimizers],
    }  # fmt: skip
    step: dict[str, Any] | None = None
    steps: dict[str, OptimizerStep] = {}
    doing, reason = "starting", "not stepped"
    try:
        with contextlib.closing(_answers(command, request, timeout)) as answers:
            for answer in answers:
                doing = answer.get("doing", doing)
                if "wrong" in answer:
                    raise InputError(answer["wrong"])
                if "cannot" in answer:
                    raise CannotRunHereError(answer["cannot"])
                step = answer.get("step", step)
                if "optimizer" in answer:
                    steps[answer["optimizer"].id] = answer["optimizer"]
                if step is not None and len(steps) == len(optimizers):
                    break
    except _Gone as gone:
        if step is None:
            kind = InputError if gone.late else CannotRunHereError
            raise kind(f"--from {spec!r}: {doing}: {gone}{gone.remedy}") from gone
        reason = f"{doing}: {gone}{gone.remedy}"
    assert step is not None
    blank = {"state_bytes": None, "step_peak_bytes": None, "temporary_bytes": None}
    names = (str(entry["id"]) for entry in optimizers)
    every = (steps.get(name) or OptimizerStep(name, "unsupported", reason, **blank) for name in names)
    return FakeStep(**step, optimizers=tuple(every))


def _answers(
    command: Sequence[str], request: Mapping[str, Any], timeout: float
) -> Generator[dict[str, Any], None, None]:
    """Start the process and yield its answers as they come; when the caller has had enough, nothing of it is left."""
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        except OSError as error:
            raise _Gone(f"the process cannot be started: {error}") from error
        try:
            assert process.stdin is not None
            lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
            with contextlib.suppress(OSError):  # it has ended already, and how it did is said below
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            while True:
                try:
                    line = lines.get(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
                except queue.Empty:
                    raise _Gone(f"no end within {timeout:g} s", "; raise --timeout", late=True) from None
                if line is None:
                    raise _Gone(_ending(process, log))
                yield _parsed(line)
        finally:
            _stop(process)


def _read(stream: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    with contextlib.suppress(ValueError):  # closed while it was read
        for line in stream:
            lines.put(line)
    lines.put(None)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        if "step" in answer:
            step = answer["step"]
            shapes = tuple(Shape(tuple(shape), *others) for shape, *others in step["shapes"])
            answer["step"] = {**step, "peak": Peak(**step["peak"]), "shapes": shapes}
        if "optimizer" in answer:
            answer["optimizer"] = OptimizerStep(**answer["optimizer"])
        return dict(answer)
    except (ValueError, TypeError, KeyError) as error:
        raise _Gone(f"the process answered with garbage: {line[:80]!r}") from error


def _ending(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Return how a process that went away ended, with its last words."""
    try:
        code = process.wait(2)
    except subprocess.TimeoutExpired:
        return "the process stopped answering"
    log.seek(0)
    words = [word.strip() for word in log.read().decode(errors="replace").splitlines() if word.strip()]
    last = f": {words[-1][:200]}" if words else ""
    if code < 0:
        # The kernel ends what takes the last of the memory with SIGKILL.
        hint = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
        return f"the process was killed by {signal.Signals(-code).name}{hint}{last}"
    return f"the process ended with exit code {code}{last}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process with all that it has started, which may outlive it."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert stream is not None
            stream.close()
