"""Construction of an arm's optimizers and schedules."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, SequentialLR

from optadvise.benchmark.distributed.wrapping import get_local_optimizer
from optadvise.benchmark.spec import Arm
from optadvise.core.cards import NOT_HIDDEN, Phase
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from optadvise.rulebase.constructor import convert_lists

NamedTensors: TypeAlias = "Sequence[tuple[str, Tensor]]"
ParameterGroup: TypeAlias = "dict[str, object]"  # `params` and arguments of any type


def resolve(path: str, package: str | None, kind: type = Optimizer, remedy: str | None = None) -> type[Any]:
    """Return the class at an import path.

    Args:
        path: `package.module.Class`.
        package: Package to install if the import fails; None if it must be built from source.
        kind: Required base class; other classes are rejected, because a card may come from a user.
        remedy: Advice for a failed import; None derives it from `package`.

    Raises:
        CannotRunHereError: The class cannot be imported or is not a subclass of `kind`.
    """
    module, name = path.rsplit(".", 1)
    by_card = f"pip install {package}" if package else "build it from source; see optadvise show"
    try:
        resolved = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CannotRunHereError(
            f"{path} cannot be imported ({reason}); {remedy or by_card}", code=ErrorCode.MISSING_PACKAGE, value=path
        ) from error
    if not (isinstance(resolved, type) and issubclass(resolved, kind)):
        raise CannotRunHereError(
            f"{path} is not a subclass of torch's {kind.__name__}; correct the optimizer's card",
            code=ErrorCode.INVALID_ENTRY, value=path,
        )  # fmt: skip
    return resolved


def build_optimizers(
    arm: Arm,
    named: NamedTensors,
    module: nn.Module | None = None,
    wrap_class: Callable[[type[Optimizer]], Callable[..., Optimizer]] = lambda optimizer_class: optimizer_class,
) -> list[Optimizer]:
    """Build the arm's optimizer in train mode, and its companion if it supports only some tensors.

    Args:
        named: Parameters with their names.
        module: Network of the parameters; its embeddings are never treated as hidden matrices.
        wrap_class: Converts an optimizer class to a constructor, such as that of ZeroRedundancyOptimizer.
    """
    optimizer_class = wrap_class(resolve(arm.path, arm.package))
    optimizers: list[Optimizer] = []
    if arm.tensors is not None and arm.companion is not None:
        supported, others = _split_supported(arm, named, module)
        if supported:
            optimizers.append(optimizer_class([p for _, p in supported], **convert_lists(arm.kwargs)))
        if others:
            companion_class = wrap_class(resolve(arm.companion.path, arm.companion.package))
            groups = group_parameters(others, "weight_decay")
            optimizers.append(companion_class(groups, **convert_lists(arm.companion.kwargs)))
    else:
        groups = group_parameters(named, arm.decay_argument)
        optimizers.append(optimizer_class(groups, **convert_lists(arm.kwargs)))
    for optimizer in map(get_local_optimizer, optimizers):
        if arm.train_mode and hasattr(optimizer, "train"):
            optimizer.train()
    return optimizers


def _split_supported(arm: Arm, named: NamedTensors, module: nn.Module | None) -> tuple[NamedTensors, NamedTensors]:
    """Split parameters into those that the optimizer trains, hidden matrices or embedding tables, and all others."""
    modules = () if module is None else tuple(module.modules())
    if arm.tensors == "table":
        tables = [m for m in modules if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
        supported_ids = _list_weight_ids(m for m in tables if m.sparse or not arm.sparse_only)
    else:
        embedding_ids = _list_weight_ids(m for m in modules if isinstance(m, nn.Embedding))
        hidden = (p for name, p in named if p.ndim == 2 and not _is_embedding_or_head(name))
        supported_ids = {id(p) for p in hidden} - embedding_ids
    supported = [(name, p) for name, p in named if id(p) in supported_ids]
    return supported, [(name, p) for name, p in named if id(p) not in supported_ids]


def _list_weight_ids(modules: Iterable[nn.Module]) -> set[int]:
    return {id(weight) for module in modules for weight in module.parameters()}


def _is_embedding_or_head(name: str) -> bool:
    """Return whether a parameter is an embedding or an output head, by its name."""
    return bool({*NOT_HIDDEN} & {*name.replace("_", ".").split(".")})


def group_parameters(named: NamedTensors, decay_argument: str | None) -> list[ParameterGroup]:
    """Return two parameter groups: matrices with weight decay, biases and norms without.

    Args:
        decay_argument: The constructor's name for weight decay; None if the optimizer has none.
    """
    matrices, vectors = [p for _, p in named if p.ndim >= 2], [p for _, p in named if p.ndim < 2]
    groups: list[ParameterGroup] = [{"params": matrices}] if matrices else []
    if vectors:
        groups.append({"params": vectors, **({decay_argument: 0.0} if decay_argument else {})})
    return groups


def build_scheduler(arm: Arm, optimizer: Optimizer) -> LRScheduler | None:
    """Build the arm's schedule for an optimizer; return None if it has none."""
    phases = [_build_phase(phase, optimizer, is_only=len(arm.phases) == 1) for phase in arm.phases]
    if not phases:
        return None
    if len(phases) == 1:
        return phases[0]
    return SequentialLR(optimizer, phases, milestones=list(arm.milestones))


def _build_phase(phase: Phase, optimizer: Optimizer, *, is_only: bool) -> LRScheduler:
    kwargs = dict(phase.kwargs)
    if phase.shape == "inverse-sqrt":
        warmup = max(1.0, float(str(kwargs["warmup_steps"])))
        return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, math.sqrt(warmup / (step + 1))))
    if phase.shape == "constant" and not is_only:
        kwargs["total_iters"] = 0
    return resolve(phase.path, "torch", LRScheduler)(optimizer, **kwargs)


def iterate_tensors(state: object) -> Iterable[Tensor]:
    """Yield every plain tensor of an optimizer state, including those in containers, objects and tensor subclasses."""
    if isinstance(state, Mapping):
        for value in state.values():
            yield from iterate_tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from iterate_tensors(value)
    elif isinstance(state, Tensor):
        if hasattr(state, "__tensor_flatten__"):
            names, _ = state.__tensor_flatten__()
            for name in names:
                yield from iterate_tensors(getattr(state, name))
        else:
            yield state
    elif hasattr(state, "__dict__") and not type(state).__module__.startswith("torch."):
        # An object of the optimizer's package, such as GaLore's projector; torch's describe sharding.
        yield from iterate_tensors(vars(state))


def count_state_bytes(optimizers: Iterable[Optimizer], *, only_paged: bool = False) -> int:
    """Return the bytes of all state tensors; tensors shared by several parameters count once.

    Args:
        only_paged: Count only tensors in managed memory, which bitsandbytes marks with `is_paged`.
    """
    sizes: dict[tuple[int, int], int] = {}
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for tensor in iterate_tensors(state):
                size = tensor.numel() * tensor.element_size()
                if size and (not only_paged or getattr(tensor, "is_paged", False)):
                    sizes[tensor.data_ptr(), size] = size
    return sum(sizes.values())
