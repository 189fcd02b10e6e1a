"""Client of the worker that traces a training step with fake tensors. Does not import torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec

from optadvise.core.error_codes import ErrorCode
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
_MACHINE = (CannotRunHereError, ErrorCode.WORKER_FAILED)


def trace_step(
    spec: str,
    precision: str,
    optimizers: Sequence[OptimizerRequest],
    *,
    timeout: float,
    command: Sequence[str] = WORKER,
) -> TracedStep:
    """Trace one training step of the user's module with fake tensors, and the steps of optimizers.

    Args:
        spec: `package.module:function`, imported with the current directory on `sys.path`; `user_workload` documents
            its return value. It runs with fake tensors, so a model of any size needs no memory.
        precision: `fp32`, `bf16`, `amp-bf16` or `amp-fp16`.
        timeout: Time limit in seconds for everything together.
        command: Command line of the worker; tests replace it.

    Raises:
        InputError: The function, its result or its training step fails, reads values of tensors or times out.
        CannotRunHereError: torch is missing, or the worker crashed before the step was traced.
    """
    if find_spec("torch") is None:
        raise CannotRunHereError("torch is not installed; pip install torch", code=ErrorCode.MISSING_PACKAGE)
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
                    kind, code = (InputError, ErrorCode.INVALID_WORKLOAD) if answer.is_input else _MACHINE
                    raise kind(answer.text, code=code, option="--workload", value=spec)
                if isinstance(answer, Activity):
                    activity = answer.text
                elif isinstance(answer, StepFigures):
                    figures = answer
                else:
                    steps[answer.id] = answer
    except WorkerError as error:
        is_late = isinstance(error, WorkerTimeoutError)
        problem = f"did not finish within {timeout:g} s; increase --timeout" if is_late else f"the process {error}"
        reason = f"{activity}: {problem}"
        if figures is None:
            kind, code = (InputError, ErrorCode.WORKER_TIMEOUT) if is_late else _MACHINE
            raise kind(f"--workload {spec!r}: {reason}", code=code, option="--workload", value=spec) from error
    assert figures is not None
    return TracedStep(
        figures,
        tuple(steps.get(each.id) or OptimizerStep(id=each.id, figures=None, reason=reason) for each in optimizers),
    )
