"""Take a training step under fake tensors in a worker process, whatever becomes of it. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec

from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.core.worker import WorkerError, WorkerProcess, WorkerTimeoutError, module_command
from optadvise.fake_tensors.records import (
    Activity,
    Answer,
    Failure,
    OptimizerRequest,
    OptimizerStep,
    StepFigures,
    StepRequest,
    TracedStep,
)

WORKER = module_command("optadvise.fake_tensors.worker")


def trace_step(
    spec: str,
    precision: str,
    optimizers: Sequence[OptimizerRequest],
    *,
    timeout: float,
    command: Sequence[str] = WORKER,
) -> TracedStep:
    """Run one training step of the user's module under fake tensors, and step optimizers on its gradients.

    Args:
        spec: `package.module:function`, imported with the current directory on `sys.path`; `user_workload` documents
            what it returns. It is called under fake tensors, so that a model of any size takes no memory.
        precision: `fp32`, `bf16`, `amp-bf16` or `amp-fp16`.
        timeout: Seconds for everything together.
        command: The worker's command line; tests pass others.

    Raises:
        InputError: The function, its result or its step is wrong, needs the values of tensors or does not end.
        CannotRunHereError: torch is missing, or the worker crashed before the step was measured.
    """
    if find_spec("torch") is None:
        raise CannotRunHereError("torch cannot be imported (No module named 'torch'); pip install torch")
    activity, reason = "importing torch", ""
    figures: StepFigures | None = None
    steps: dict[str, OptimizerStep] = {}
    deadline = time.monotonic() + timeout
    try:
        with WorkerProcess(command) as process:
            process.send(StepRequest(spec=spec, precision=precision, optimizers=tuple(optimizers)))
            while figures is None or len(steps) < len(optimizers):
                answer: Answer = process.receive(Answer, deadline - time.monotonic())
                if isinstance(answer, Failure):
                    raise (InputError if answer.is_input else CannotRunHereError)(answer.text)
                if isinstance(answer, Activity):
                    activity = answer.text
                elif isinstance(answer, StepFigures):
                    figures = answer
                else:
                    steps[answer.id] = answer
    except WorkerError as error:
        is_late = isinstance(error, WorkerTimeoutError)
        problem = f"no end within {timeout:g} s; raise --timeout" if is_late else f"the process {error}"
        reason = f"{activity}: {problem}"
        if figures is None:
            kind = InputError if is_late else CannotRunHereError
            raise kind(f"--from {spec!r}: {reason}") from error
    assert figures is not None
    return TracedStep(
        figures,
        tuple(steps.get(each.id) or OptimizerStep(id=each.id, figures=None, reason=reason) for each in optimizers),
    )
