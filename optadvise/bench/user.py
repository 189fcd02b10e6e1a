"""The user's own workload, by `--workload package.module:function`. Imports torch."""

from __future__ import annotations

import importlib
import itertools
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from optadvise.bench.data import default_loss
from optadvise.bench.workloads import DTYPES, Loss, Workload, check, count_parameters, weights_dtype
from optadvise.errors import InputError, nearest


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
        seed: Of torch's and Python's generators, which stay seeded so.
        device: Where the module and the batches go.
        dtype: As for `workloads.build`.

    Raises:
        InputError: The spec, the import, the call or what it returned is wrong.
    """
    check("--dtype", dtype, DTYPES)
    function = _find(spec)
    # For the whole process, not for the call alone: a data loader or a generator draws from them later.
    torch.manual_seed(seed)
    random.seed(seed)
    returned = _guarded(spec, "calling it", function)
    module, batches, loss = _unpack(spec, returned)
    first, endless = _guarded(spec, "taking the first batch", lambda: _peek(spec, batches))
    module.to(device=device, dtype=weights_dtype(dtype) if dtype == "bf16" else None)
    samples = _samples(first)
    parameters = _guarded(spec, "counting its parameters", lambda: count_parameters(module))
    details = {"parameters": parameters, "batch_size": samples, "dtype": dtype, "spec": spec}
    move = partial(_moved, device=device, dtype=weights_dtype(dtype))
    checked = partial(_scalar, spec, loss)
    unit = "samples/s" if samples else "batches/s"  # a batch without tensors has no samples to count
    return Workload(spec, module, map(move, endless), checked, samples or 1, unit, details)


def _bad(spec: str, problem: str) -> InputError:
    return InputError(f"--workload {spec!r}: {' '.join(problem.split())}")


def _guarded(spec: str, doing: str, action: Callable[[], Any]) -> Any:
    """Run the user's code, and say in one line what it raised; running out of memory is a result, not a mistake."""
    try:
        return action()
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise _bad(spec, f"{doing} raised {type(error).__name__}: {error}") from error


def _find(spec: str) -> Callable[[], Any]:
    path, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise _bad(spec, "not package.module:function, such as mypackage.train:workload; it is no path to a file")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    module = _guarded(spec, f"importing {path}", lambda: importlib.import_module(path))
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise _bad(spec, f"{path} has no function {attribute!r}; {nearest(attribute, known)}")
    return function  # type: ignore[no-any-return]


def _unpack(spec: str, returned: Any) -> tuple[nn.Module, Iterable[Any], Loss]:
    wanted = "return (module, batches) or (module, batches, loss)"
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise _bad(spec, f"it returned {type(returned).__name__}; {wanted}")
    module, batches, loss = returned if len(returned) == 3 else (*returned, default_loss)
    if not isinstance(module, nn.Module) or not any(weight.requires_grad for weight in module.parameters()):
        raise _bad(spec, f"the first of what it returned is no torch.nn.Module with parameters to train; {wanted}")
    if not isinstance(batches, Iterable) or isinstance(batches, (str, Tensor, Mapping)):
        raise _bad(spec, f"batches is a {type(batches).__name__}; return a list, a data loader or a generator")
    if not callable(loss):
        raise _bad(spec, f"loss is a {type(loss).__name__}; return a function of (module, batch)")
    return module, batches, loss


def _peek(spec: str, batches: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    endless = _endless(spec, batches)
    first = next(endless)
    return first, itertools.chain([first], endless)


def _endless(spec: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches over and over; a generator that ends cannot begin again, which is said when it happens."""
    taken = 0
    while True:
        before = taken
        for batch in batches:
            taken += 1
            yield batch
        if taken == before:
            raise _bad(spec, f"batches ended after {taken}; return a list, a data loader or an endless generator")


def _moved(batch: Any, device: str, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, dtype if dtype == torch.bfloat16 and batch.is_floating_point() else None)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device, dtype) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [_moved(value, device, dtype) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _samples(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    parts: Sequence[Any] = list(batch.values()) if isinstance(batch, Mapping) else batch
    found = (_samples(part) for part in parts) if isinstance(parts, (list, tuple)) else iter(())
    return next((count for count in found if count), None)


def _scalar(spec: str, loss: Loss, module: nn.Module, batch: Any) -> Tensor:
    value = loss(module, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise _bad(spec, f"its loss returned {type(value).__name__}; return a tensor with one element")
    return value
