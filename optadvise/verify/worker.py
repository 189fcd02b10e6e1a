"""Worker process of audits and experiments. Imports torch."""

from __future__ import annotations

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from optadvise.benchmark.optimizer_builder import resolve
from optadvise.core.errors import CannotRunHereError
from optadvise.core.lifeline import exit_if_forked
from optadvise.core.start import add_current_folder
from optadvise.core.worker import ParentConnection
from optadvise.verify.audit import audit, resume
from optadvise.verify.builder import describe_error
from optadvise.verify.experiment_setup import ExperimentSetup, UndecidableError
from optadvise.verify.experiments import run_experiment
from optadvise.verify.records import (
    Answer,
    AuditRequest,
    DevicesAnswer,
    DevicesRequest,
    ExperimentRequest,
    FigureAnswer,
    MissingAnswer,
    Request,
    ResumeAnswer,
    UndecidedAnswer,
)
from optadvise.verify.reference import METHODS
from optadvise.verify.training import TrainingCache


def main() -> None:
    """Answer requests until the parent process ends."""
    parent = ParentConnection()
    torch.set_num_threads(1)  # more threads are slower on small tensors
    register_optimizer_step_post_hook(lambda *_: exit_if_forked())
    trainings = TrainingCache()
    while True:
        parent.send(answer(parent.receive(Request), trainings))


def answer(request: Request, trainings: TrainingCache) -> Answer:
    """Return the answer to a request."""
    if isinstance(request, DevicesRequest):
        return DevicesAnswer(("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))
    if isinstance(request, ExperimentRequest):
        return _answer_experiment(request, trainings)
    return _answer_audit(request)


def _answer_audit(request: AuditRequest) -> Answer:
    target, path = request.target, request.target.implementation.path
    if target.optimizer not in METHODS:
        return MissingAnswer(f"{target.optimizer} has no reference implementation (optadvise/verify/reference.py)")
    remedy = None
    if request.is_user_class:
        remedy = "install its package, or run the command in its folder"
        add_current_folder()
    try:
        optimizer_class = resolve(path, target.implementation.package, remedy=remedy)
    except CannotRunHereError as error:
        return MissingAnswer(str(error))
    except Exception as error:  # an import may raise any error
        return MissingAnswer(f"{path} cannot be imported ({type(error).__name__}: {str(error)[:120]})")
    if request.saved_run is not None:
        return ResumeAnswer(resume(target, optimizer_class, request.saved_run))
    return audit(target, optimizer_class)


def _answer_experiment(request: ExperimentRequest, trainings: TrainingCache) -> Answer:
    setup = ExperimentSetup(
        sides=request.sides,
        setting=request.setting,
        device=request.device,
        trainings=trainings,
        surface=request.surface,
    )
    try:
        return FigureAnswer(run_experiment(request.experiment, setup, request.seed))
    except (UndecidableError, CannotRunHereError) as error:
        return UndecidedAnswer(str(error))
    except Exception as error:  # libraries raise errors of any type
        return UndecidedAnswer(describe_error(error))


if __name__ == "__main__":
    main()
