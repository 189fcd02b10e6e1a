"""Take one training step of the user's module under fake tensors, in a worker process. Imports torch.

Each answer is sent as soon as it is known, so that the parent keeps what was measured before a worker ends.
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

_BUDGET_SECONDS = 30.0  # for one optimizer; for 7B parameters the slowest took half of that on two cores


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
        advice = "out of memory; make tensors by torch, which are fake, not by numpy"
        parent.send(Failure(f"--from {request.spec!r}: {advice}", is_input=False))
    os._exit(0)  # some libraries crash when the interpreter shuts down


def answer_request(request: StepRequest, send: Callable[[Answer], None]) -> None:
    """Take the step, then step each optimizer.

    Raises:
        InputError: The user's function, its result or its step is wrong.
        CannotRunHereError: The step cannot be taken on this machine.
    """
    torch.compile = _return_model
    stepped = take_step(request.spec, precision=request.precision, report=lambda text: send(Activity(text)))
    send(stepped.figures)
    gc.freeze()  # the module stays, so that no collection has to look at it again
    for optimizer in request.optimizers:
        send(Activity(f"stepping {optimizer.id}"))
        send(step_optimizer(optimizer, stepped, _BUDGET_SECONDS))


def _return_model(model: object = None, **_: object) -> object:
    """Stand in for `torch.compile`, which would compile code for tensors that do not exist."""
    return model if model is not None else _return_model


def explain_error(spec: str, error: InputError) -> str:
    """Return an error with the line of the user's code, and with advice if fake tensors are the reason."""
    cause = error.__cause__
    if cause is None or isinstance(cause, InputError):
        return str(error)
    activity, place = str(error).split(" raised ")[0], _find_place(cause)
    bench = f"or measure for real with optadvise bench --workload {spec}"
    if isinstance(cause, (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException)):
        return (
            f"{activity} needs the values of tensors ({type(cause).__name__}{place}), which fake tensors do not have; "
            f"take them from shapes or plain numbers, {bench}"
        )
    if isinstance(cause, fake_tensor.UnsupportedOperatorException):
        return f"{activity} uses {cause}{place}, which has no fake implementation; leave it out, {bench}"
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
        return "; there is no GPU here, so name no device: the step is counted as on one"
    if ".numpy()" in str(error):
        return "; fake tensors hold no values, so make by numpy what numpy needs"
    return ""


if __name__ == "__main__":
    main()
