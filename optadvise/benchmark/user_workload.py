"""Workloads of the user, loaded from `package.module:function`. Imports torch."""

from __future__ import annotations

import importlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from msgspec import Struct
from torch import Tensor, nn

from optadvise.benchmark.options import DTYPES
from optadvise.benchmark.workload_data import default_loss
from optadvise.benchmark.workloads import Loss, Workload, weights_dtype
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, check_choice, suggest_name
from optadvise.core.start import add_current_folder

Result = TypeVar("Result")


class UserWorkload(Struct, frozen=True):
    """Checked return value of the user's function."""

    module: nn.Module
    batches: Iterator[Any]  # infinite
    loss: Loss  # raises InputError if the user's loss does not return a scalar
    samples: int | None  # in the first batch; None if it has no tensors


def load_user(spec: str, *, seed: int = 0, device: str = "cpu", dtype: str = "fp32") -> Workload:
    """Load the workload of the user's function.

    The function is called without arguments, after seeding torch's and Python's generators, and must return
    `(module, batches)` or `(module, batches, loss)`:

    - `module`: a `torch.nn.Module`. It is moved to the device, and converted to bf16 for `--precision bf16`.
    - `batches`: a list or data loader, which is repeated, or an infinite generator. Tensors in a batch, including those
      in tuples, lists and dicts, are moved to the device. The first dimension of the first tensor is the batch size.
    - `loss`: `loss(module, batch)`, which returns a scalar tensor. Without it, a batch must be `(inputs, targets)`,
      with cross-entropy for integer targets and squared error for others, or a dict of arguments to a module that
      returns `.loss`.

    Args:
        spec: `package.module:function`, imported with the current directory on `sys.path`.
        seed: Seed of torch's and Python's generators; it differs between ranks.
        device: Device of the module and the batches.
        dtype: Training precision, as for `workloads.build`.

    Raises:
        InputError: The spec, the import, the call or the return value is invalid.
    """
    check_choice("--precision", dtype, DTYPES)
    loaded = call_user_function(spec, seed=seed)
    module = loaded.module
    module.to(device=device, dtype=weights_dtype(dtype) if dtype == "bf16" else None)
    run_guarded(
        f"--workload {spec!r}", "counting parameters", lambda: [weight.numel() for weight in module.parameters()]
    )
    move_batch = partial(map_tensors, change=partial(move_tensor, device=device, dtype=weights_dtype(dtype)))
    unit = "samples/s" if loaded.samples else "batches/s"  # samples cannot be counted without tensors
    return Workload(module, map(move_batch, loaded.batches), loaded.loss, loaded.samples or 1, unit)


def call_user_function(
    spec: str,
    *,
    seed: int = 0,
    flag: str = "--workload",
    call_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    announce: Callable[[str], None] = lambda _: None,
) -> UserWorkload:
    """Import and call the user's function, check its return value and read the first batch.

    Args:
        flag: Option of the spec, for error messages.
        call_context: Context of the call; importing and reading batches are outside it.
        announce: Called with the activity that begins.

    Raises:
        InputError: As for `load_user`.
    """
    name = f"{flag} {spec!r}"
    function = _import_function(name, spec, announce)
    # Not restored after the call: data loaders and generators draw from them later.
    torch.manual_seed(seed)
    random.seed(seed)

    def call() -> object:
        with call_context():
            return function()

    announce("calling the function")
    module, batches, loss = _unpack(name, run_guarded(name, "the function", call))
    announce("reading the first batch")
    repeated = _repeat(name, batches)
    first = run_guarded(name, "reading the first batch", lambda: next(repeated))
    loss = partial(_check_scalar, name, loss)
    return UserWorkload(
        module=module, batches=itertools.chain([first], repeated), loss=loss, samples=_count_samples(first)
    )


def _reject(name: str, problem: str) -> InputError:
    option, _, spec = name.partition(" ")
    message = f"{name}: {' '.join(problem.split())}"
    return InputError(message, code=ErrorCode.INVALID_WORKLOAD, option=option, value=spec.strip("'\""))


def run_guarded(name: str, what: str, action: Callable[[], Result]) -> Result:
    """Run the user's code and convert its exceptions to a one-line InputError.

    Args:
        name: Option and spec of the code, such as `--workload 'mine:function'`.
        what: Subject of the message, such as `the function`.

    Raises:
        InputError: The code raised an exception other than an out-of-memory error, which is a result.
    """
    try:
        return action()
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise _reject(name, f"{what} raised {type(error).__name__}: {error}") from error


def _import_function(name: str, spec: str, announce: Callable[[str], None]) -> Callable[[], Any]:
    path, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise _reject(
            name, "must be package.module:function, such as mypackage.train:workload; file paths are not supported"
        )
    add_current_folder()
    announce(f"importing {path}")
    module = run_guarded(name, f"importing {path}", lambda: importlib.import_module(path))
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = suggest_name(attribute, functions) or "check the name"
        raise _reject(name, f"module {path} has no function {attribute!r}; {hint}")
    return function  # type: ignore[no-any-return]


def _unpack(name: str, returned: object) -> tuple[nn.Module, Iterable[Any], Loss]:
    expected = "return (module, batches) or (module, batches, loss)"
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise _reject(name, f"the function returned {type(returned).__name__}; {expected}")
    module, batches, loss = returned if len(returned) == 3 else (*returned, default_loss)
    if not isinstance(module, nn.Module) or not any(weight.requires_grad for weight in module.parameters()):
        raise _reject(name, f"module must be a torch.nn.Module with trainable parameters; {expected}")
    if not isinstance(batches, Iterable) or isinstance(batches, (str, Tensor, Mapping)):
        raise _reject(name, f"batches must be a list, a data loader or a generator, not {type(batches).__name__}")
    if not callable(loss):
        raise _reject(name, f"loss must be a function of (module, batch), not {type(loss).__name__}")
    return module, batches, loss


def _repeat(name: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches repeatedly; raise InputError if they end and cannot be iterated again."""
    count = 0
    while True:
        before = count
        for batch in batches:
            count += 1
            yield batch
        if count == before:
            raise _reject(name, f"batches ended after {count}; return a list, a data loader or an infinite generator")


def map_tensors(batch: object, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with a function applied to every tensor, including those in tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, change) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [map_tensors(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def move_tensor(tensor: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """Move a tensor to the device; convert floating-point tensors to bf16 if the weights are bf16."""
    return tensor.to(device, dtype if dtype == torch.bfloat16 and tensor.is_floating_point() else None)


def _count_samples(batch: object) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    counts = (_count_samples(part) for part in parts) if isinstance(parts, (list, tuple)) else iter(())
    return next((count for count in counts if count), None)


def _check_scalar(name: str, loss: Loss, module: nn.Module, batch: object) -> Tensor:
    try:
        value = loss(module, batch)
    except InputError as error:  # the default loss does not know the spec
        raise _reject(name, str(error).removeprefix("--workload: ")) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        returned = f"{value.numel()} elements" if isinstance(value, Tensor) else type(value).__name__
        raise _reject(name, f"loss must return a tensor with one element, not {returned}")
    return value
