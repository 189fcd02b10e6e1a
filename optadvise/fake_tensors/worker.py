"""Worker process that traces a training step of the user's module with fake tensors. Imports torch.

It sends each answer at once, so the parent has all measurements from before a crash.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch._subclasses import fake_tensor

import optadvise
from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.core.worker import ParentConnection
from optadvise.fake_tensors.records import Activity, Answer, Failure, StepRequest
from optadvise.fake_tensors.step import step_optimizer, take_step

_BUDGET_SECONDS = 30.0  # for one optimizer; the slowest took half of that for 7B parameters on two cores


def main() -> None:
    """Answer one request."""
    parent = ParentConnection()
    request = parent.receive(StepRequest)
    try:
        answer_request(request, parent.send)
    except InputError as error:
        parent.send(Failure(explain_error(request.spec, error), is_input=True))
    except CannotRunHereError as error:
        parent.send(Failure(str(error), is_input=False))
    except MemoryError:
        advice = "out of host memory; create tensors with torch, which are fake here, not with numpy"
        parent.send(Failure(f"--workload {request.spec!r}: {advice}", is_input=False))
    os._exit(0)  # some libraries crash when the interpreter shuts down


def answer_request(request: StepRequest, send: Callable[[Answer], None]) -> None:
    """Trace the training step, then the step of each optimizer.

    Raises:
        InputError: The user's function, its result or its training step fails.
        CannotRunHereError: The step cannot be traced on this machine.
    """
    torch.compile = _return_model
    stepped = take_step(request.spec, precision=request.precision, report=lambda text: send(Activity(text)))
    send(stepped.figures)
    gc.freeze()  # exclude the module from further garbage collections
    for optimizer in request.optimizers:
        send(Activity(f"stepping {optimizer.id}"))
        send(step_optimizer(optimizer, stepped, _BUDGET_SECONDS))


def _return_model(model: object = None, **_: object) -> object:
    """Replace `torch.compile`, which cannot compile for fake tensors."""
    return model if model is not None else _return_model


def explain_error(spec: str, error: InputError) -> str:
    """Return the message with the line of the user's code, and with advice if fake tensors are the cause."""
    cause = error.__cause__
    if cause is None or isinstance(cause, InputError):
        return str(error)
    activity, place = str(error).split(" raised ")[0], _find_place(cause)
    bench = f"or measure with optadvise bench --workload {spec}"
    if isinstance(cause, (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException)):
        return (
            f"{activity} reads the values of tensors ({type(cause).__name__}{place}), which fake tensors do not have; "
            f"use shapes or Python numbers instead, {bench}"
        )
    if isinstance(cause, fake_tensor.UnsupportedOperatorException):
        return f"{activity} uses {cause}{place}, which does not support fake tensors; remove it, {bench}"
    return f"{str(error).rstrip('.')}{place}{_find_hint(cause)}"


def _find_place(error: BaseException) -> str:
    """Return ` at file:line` of the innermost frame that is neither in torch nor in optadvise."""
    libraries = tuple(str(Path(str(module.__file__)).parent) for module in (torch, importlib, optadvise))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*libraries, "<frozen"))
    ]
    if not frames:
        return ""
    file = Path(frames[-1].filename)
    with contextlib.suppress(ValueError):
        file = file.relative_to(Path.cwd())
    return f" at {file}:{frames[-1].lineno}"


def _find_hint(error: BaseException) -> str:
    if "cuda" in str(error).lower() and not torch.cuda.is_available():
        return "; this machine has no GPU, so remove the device: memory is estimated as on a GPU"
    if ".numpy()" in str(error):
        return "; fake tensors have no values, so create arrays with numpy, not from tensors"
    return ""


if __name__ == "__main__":
    main()
