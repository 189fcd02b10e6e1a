"""An implementation under audit: built with its card's numbers, and quiet."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from typing import Any

import torch

from optadvise.verify.target import Subject


class Maker:
    """Builds an implementation."""

    def __init__(self, subject: Subject, made: type[torch.optim.Optimizer]) -> None:
        """Take an implementation's class.

        Args:
            subject: What it should be.
            made: The class.
        """
        self.subject = subject
        self.made = made
        signature = inspect.signature(made.__init__).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in signature.values())
        self.refused = [
            name for name in subject.hyperparameters if not free and subject.arguments.get(name, name) not in signature
        ]

    def build(self, parameters: Any, **changes: Any) -> Any:
        """Return an optimizer over parameters or groups, with the card's defaults but for some changes."""
        given = {**self.subject.hyperparameters, **changes}
        named = {self.subject.arguments.get(name, name): value for name, value in given.items()
                 if name not in self.refused}  # fmt: skip
        kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in {**named, **self.subject.kwargs}.items()}
        with quiet():
            built = self.made(parameters, **kwargs)
            if self.subject.train_mode:
                built.train()
        return built


def line(error: Exception) -> str:
    """Return the first line of an error, with its kind."""
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first}"[:200]


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what libraries print when they are built or stepped out of the answer, and compile nothing."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        with torch.compiler.set_stance("force_eager"):
            yield


def one_thread() -> None:
    """Keep to one thread: on small tensors more only wait for each other."""
    torch.set_num_threads(1)
