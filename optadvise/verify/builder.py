"""Construction of the optimizer under audit, without its output. Imports torch."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Iterable, Iterator

import torch

from optadvise.core.cards import Value
from optadvise.core.lifeline import exit_if_forked
from optadvise.rulebase.constructor import constructor_kwargs, convert_lists
from optadvise.verify.records import AuditTarget


class OptimizerBuilder:
    """Builder of the optimizer under audit."""

    def __init__(self, target: AuditTarget, optimizer_class: type[torch.optim.Optimizer]) -> None:
        """Determine the hyperparameters that the constructor does not accept."""
        self.target = target
        self._class = optimizer_class
        signature = inspect.signature(optimizer_class.__init__).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
        self.rejected = [
            name
            for name in target.hyperparameters
            if not takes_any and target.implementation.arguments.get(name, name) not in signature
        ]

    @property
    def lr(self) -> float:
        """Return the card's default learning rate."""
        lr = self.target.hyperparameters["lr"]
        assert isinstance(lr, (int, float))
        return lr

    def build(self, parameters: Iterable[object], **changes: Value) -> torch.optim.Optimizer:
        """Return an optimizer with the default hyperparameters of the card.

        Args:
            **changes: Other values of hyperparameters, by the names of the card.
        """
        implementation = self.target.implementation
        values = {**self.target.hyperparameters, **changes}
        accepted = {name: value for name, value in values.items() if name not in self.rejected}
        kwargs = convert_lists(constructor_kwargs(implementation, accepted, device="cpu"))
        optimizer = self._class(parameters, **kwargs)
        exit_if_forked()
        if implementation.needs_train_mode:
            optimizer.train()
        return optimizer

    def set_gradient(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Set the gradient of a weight in the layout that the implementation supports."""
        is_sparse = self.target.implementation.gradients == "sparse"
        weight.grad = gradient.to_sparse(1) if is_sparse else gradient


def describe_error(error: Exception) -> str:
    """Return the type and the first line of an error, at most 200 characters."""
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first}"[:200]


@contextlib.contextmanager
def silence_libraries() -> Iterator[None]:
    """Suppress output and warnings of libraries, and disable torch.compile."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        with torch.compiler.set_stance("force_eager"):
            yield
