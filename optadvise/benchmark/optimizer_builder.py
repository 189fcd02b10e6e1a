"""Optimizers and schedules out of an arm's plain data."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optadvise.benchmark.spec import Arm
from optadvise.core.errors import CannotRunHereError
from optadvise.core.records import NOT_HIDDEN

Named = Sequence[tuple[str, Tensor]]


def resolve(path: str, package: str | None, kind: type = torch.optim.Optimizer, remedy: str | None = None) -> Any:
    """Return the class at an import path.

    Args:
        path: `package.module.Class`.
        package: What to install where it is missing.
        kind: What it has to be; nothing else that a card may name is run.
        remedy: What to do where it is missing, if it is not on a card.

    Raises:
        CannotRunHereError: It cannot be imported; the line says how to install it.
    """
    module, name = path.rsplit(".", 1)
    by_card = f"pip install {package}" if package else "build it from source; optadvise show has the note"
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CannotRunHereError(f"{path} cannot be imported ({first}); {remedy or by_card}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise CannotRunHereError(f"{path} is no {kind.__name__} of torch, and nothing else is run; mend the card")
    return found


def optimizers(
    arm: Arm, named: Named, module: Any = None, through: Callable[[Any], Any] = lambda made: made
) -> list[Any]:
    """Return the arm's optimizer over the parameters, and its companion where it takes only matrices.

    Args:
        arm: What to build.
        named: Trained parameters with their names.
        module: The network they belong to, whose embeddings are no hidden matrices whatever they are called.
        through: Makes the constructor of an optimizer's class, where something wraps it.
    """
    made = through(resolve(arm.path, arm.package))
    if arm.matrices_only and arm.companion is not None:
        tables = {id(w) for m in _embeddings(module) for w in m.parameters()}
        named_so = {n for n, _ in named if {*NOT_HIDDEN} & {*n.replace("_", ".").split(".")}}
        hidden = [(n, p) for n, p in named if p.ndim == 2 and id(p) not in tables and n not in named_so]
        taken = {id(p) for _, p in hidden}
        rest = [(n, p) for n, p in named if id(p) not in taken]
        built = [made([p for _, p in hidden], **_arguments(arm.kwargs))] if hidden else []
        if rest:
            other = through(resolve(arm.companion["path"], arm.companion["package"]))
            built.append(other(groups(rest, "weight_decay"), **_arguments(arm.companion["kwargs"])))
        return built
    return [made(groups(named, arm.decay_argument), **_arguments(arm.kwargs))]


def _embeddings(module: Any) -> Iterable[Any]:
    return () if module is None else (m for m in module.modules() if isinstance(m, torch.nn.Embedding))


def groups(named: Named, decay_argument: str | None) -> list[dict[str, Any]]:
    """Return parameter groups: matrices with weight decay, biases and norms without."""
    matrices, vectors = [p for _, p in named if p.ndim >= 2], [p for _, p in named if p.ndim < 2]
    made: list[dict[str, Any]] = [{"params": matrices}] if matrices else []
    if vectors:
        made.append({"params": vectors, **({decay_argument: 0.0} if decay_argument else {})})
    return made


def _arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}


def scheduler(arm: Arm, optimizer: Any) -> Any:
    """Return the arm's schedule over an optimizer, None where it has none."""
    made = [_phase(phase, optimizer, last=len(arm.phases) == 1) for phase in arm.phases]
    if not made:
        return None
    if len(made) == 1:
        return made[0]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, made, milestones=list(arm.milestones))


def _phase(phase: Mapping[str, Any], optimizer: Any, *, last: bool) -> Any:
    kwargs = dict(phase["kwargs"])
    if phase["shape"] == "inverse-sqrt":
        warmup = max(1, kwargs["warmup_steps"])
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))
        )
    if phase["shape"] == "constant" and not last:
        kwargs["total_iters"] = 0
    return resolve(phase["import"], "torch", torch.optim.lr_scheduler.LRScheduler)(optimizer, **kwargs)


def tensors_in(state: Any) -> Iterable[Tensor]:
    """Yield every plain tensor inside a state: in lists and dictionaries, and inside tensor subclasses."""
    if isinstance(state, Mapping):
        for value in state.values():
            yield from tensors_in(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from tensors_in(value)
    elif isinstance(state, Tensor):
        if hasattr(state, "__tensor_flatten__"):
            names, _ = state.__tensor_flatten__()
            for name in names:
                yield from tensors_in(getattr(state, name))
        else:
            yield state


def state_bytes(built: Iterable[Any]) -> int:
    """Return the bytes of all state tensors, one that several parameters share counted once."""
    seen: dict[tuple[int, int], int] = {}
    for optimizer in built:
        for state in optimizer.state.values():
            for tensor in tensors_in(state):
                size = tensor.numel() * tensor.element_size()
                if size:
                    seen[tensor.data_ptr(), size] = size
    return sum(seen.values())
