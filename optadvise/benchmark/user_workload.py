"""The user's own workload, by `--workload package.module:function`. Imports torch."""

from __future__ import annotations

import importlib
import itertools
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn

from optadvise.benchmark.workload_data import default_loss
from optadvise.benchmark.workloads import DTYPES, Loss, Workload, check, count_parameters, weights_dtype
from optadvise.core.errors import InputError, nearest


class Given(Struct, frozen=True):
    """What the user's function gave."""

    module: nn.Module
    batches: Iterator[Any]  # endless, as the user made them
    loss: Loss  # refuses what is no scalar
    samples: int | None  # in the first batch; None where it holds no tensors


def load_user(spec: str, *, seed: int = 0, device: str = "cpu", dtype: str = "fp32") -> Workload:
    """Return the workload that the user's function makes.

    The function is called without arguments, after torch's and Python's generators have been seeded, and returns
    `(module, batches)` or `(module, batches, loss)`:

    - `module`: a `torch.nn.Module`; it is moved to the device, and made bf16 for `--dtype bf16`.
    - `batches`: a list or a data loader, begun again when it ends, or an endless generator. Tensors in it, also inside
      tuples, lists and dicts, are moved likewise. The first dimension of a batch's first tensor counts its samples.
    - `loss`: `loss(module, batch)`, a scalar tensor. Without it a batch is `(inputs, targets)`, with cross-entropy for
      integer targets and squared error for others, or a dict of arguments to a module that returns `.loss`.

    Args:
        spec: `package.module:function`, imported with the current directory on `sys.path`.
        seed: Of torch's and Python's generators, which stay seeded so; each of several ranks gets one of its own.
        device: Where the module and the batches go.
        dtype: As for `workloads.build`.

    Raises:
        InputError: The spec, the import, the call or what it returned is wrong.
    """
    check("--dtype", dtype, DTYPES)
    workload = called(spec, seed=seed)
    module, samples = workload.module, workload.samples
    where = _where("--workload", spec)
    module.to(device=device, dtype=weights_dtype(dtype) if dtype == "bf16" else None)
    parameters = guarded(where, "counting its parameters", lambda: count_parameters(module))
    details = {"parameters": parameters, "batch_size": samples, "dtype": dtype, "spec": spec}
    move = partial(each_tensor, change=partial(moved, device=device, dtype=weights_dtype(dtype)))
    unit = "samples/s" if samples else "batches/s"  # a batch without tensors has no samples to count
    return Workload(spec, module, map(move, workload.batches), workload.loss, samples or 1, unit, details)


def called(
    spec: str,
    *,
    seed: int = 0,
    flag: str = "--workload",
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    doing: Callable[[str], None] = lambda _: None,
) -> Given:
    """Import and call the user's function, check what it returned and take the first batch.

    Args:
        spec: As for `load_user`.
        seed: As for `load_user`.
        flag: The option that the spec was given by, for messages.
        within: What the call happens in; importing and taking batches do not.
        doing: Told what begins.

    Raises:
        InputError: As for `load_user`.
    """
    where = _where(flag, spec)
    function = _find(where, spec, doing)
    # For the whole process, not for the call alone: a data loader or a generator draws from them later.
    torch.manual_seed(seed)
    random.seed(seed)

    def call() -> Any:
        with within():
            return function()

    doing("calling it")
    module, batches, loss = _unpack(where, guarded(where, "calling it", call))
    doing("taking the first batch")
    first, endless = guarded(where, "taking the first batch", lambda: _peek(where, batches))
    return Given(module, endless, partial(_scalar, where, loss), _samples(first))


def _where(flag: str, spec: str) -> str:
    return f"{flag} {spec!r}"


def _bad(where: str, problem: str) -> InputError:
    return InputError(f"{where}: {' '.join(problem.split())}")


def guarded(where: str, what: str, action: Callable[[], Any]) -> Any:
    """Run the user's code, and say in one line what it raised; running out of memory is a result, not a mistake."""
    try:
        return action()
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise _bad(where, f"{what} raised {type(error).__name__}: {error}") from error


def _find(where: str, spec: str, doing: Callable[[str], None]) -> Callable[[], Any]:
    path, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise _bad(where, "not package.module:function, such as mypackage.train:workload; it is no path to a file")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    doing(f"importing {path}")
    module = guarded(where, f"importing {path}", lambda: importlib.import_module(path))
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        guess = nearest(attribute, known) or "check the name"
        raise _bad(where, f"{path} has no function {attribute!r}; {guess}")
    return function  # type: ignore[no-any-return]


def _unpack(where: str, returned: Any) -> tuple[nn.Module, Iterable[Any], Loss]:
    wanted = "return (module, batches) or (module, batches, loss)"
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise _bad(where, f"it returned {type(returned).__name__}; {wanted}")
    module, batches, loss = returned if len(returned) == 3 else (*returned, default_loss)
    if not isinstance(module, nn.Module) or not any(weight.requires_grad for weight in module.parameters()):
        raise _bad(where, f"the first of what it returned is no torch.nn.Module with parameters to train; {wanted}")
    if not isinstance(batches, Iterable) or isinstance(batches, (str, Tensor, Mapping)):
        raise _bad(where, f"batches is a {type(batches).__name__}; return a list, a data loader or a generator")
    if not callable(loss):
        raise _bad(where, f"loss is a {type(loss).__name__}; return a function of (module, batch)")
    return module, batches, loss


def _peek(where: str, batches: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    endless = _endless(where, batches)
    first = next(endless)
    return first, itertools.chain([first], endless)


def _endless(where: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches over and over; a generator that ends cannot begin again, which is said when it happens."""
    taken = 0
    while True:
        before = taken
        for batch in batches:
            taken += 1
            yield batch
        if taken == before:
            raise _bad(where, f"batches ended after {taken}; return a list, a data loader or an endless generator")


def each_tensor(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with every tensor changed, also those inside tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: each_tensor(value, change) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [each_tensor(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def moved(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """Return a batch's tensor on the device, and in bf16 where the weights are and it holds no integers."""
    return tensor.to(device, dtype if dtype == torch.bfloat16 and tensor.is_floating_point() else None)


def _samples(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    parts: Sequence[Any] = list(batch.values()) if isinstance(batch, Mapping) else batch
    found = (_samples(part) for part in parts) if isinstance(parts, (list, tuple)) else iter(())
    return next((count for count in found if count), None)


def _scalar(where: str, loss: Loss, module: nn.Module, batch: Any) -> Tensor:
    try:
        value = loss(module, batch)
    except InputError as error:  # the default loss knows of no spec
        raise _bad(where, str(error).removeprefix("--workload: ")) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"{value.numel()} elements" if isinstance(value, Tensor) else type(value).__name__
        raise _bad(where, f"its loss returned {found}; return a tensor with one element")
    return value
