"""Lets code that was not written for fake tensors run on them. Imports torch."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# Elements of a tensor whose values are kept: enough for a network's drop rates, one a layer.
_KEPT = 1024
_aten = torch.ops.aten
_COUNTED = {_aten.arange.default, _aten.arange.start, _aten.arange.start_step, _aten.linspace.default}


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
    """Let networks be made and moved under fake tensors, for as long as the context lasts."""
    with contextlib.ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        # Some draw until the values suit them, and none changes what a weight takes.
        for name, value in list(vars(nn.init).items()):
            if name.endswith("_") and not name.startswith("_") and callable(value):
                replace(nn.init, name, _as_it_is)
        # `module.to()` swaps tensors, and refuses those that anything refers to weakly, as fake mode does to many.
        replace(torch.utils, "weakref", types.SimpleNamespace(getweakrefs=lambda _: ()))
        replace(fake_tensor, "CONSTANT_NUMEL_LIMIT", _KEPT)
        yield


def _as_it_is(tensor: Any, *_: Any, **__: Any) -> Any:
    return tensor


class Values(TorchDispatchMode):  # type: ignore[misc]
    """Keeps the values of what is counted out, such as `linspace(0, 0.1, layers)`; may guess those that are read back.

    A norm or a step size that an optimizer goes on to compute with changes no shape: it is told 1, or no. What would
    change one, such as an index, still raises.
    """

    def __init__(self, mode: FakeTensorMode, *, guess: bool = False) -> None:
        """Keep what the handler needs."""
        super().__init__()
        self._mode = mode
        self._guess = guess

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, with values where there are any."""
        try:
            result = func(*args, **kwargs or {})
        except DataDependentOutputException:
            if not (self._guess and func is _aten._local_scalar_dense.default):
                raise
            dtype = args[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func in _COUNTED and isinstance(result, FakeTensor) and result.numel() <= _KEPT:
            with fake_tensor.unset_fake_temporarily():
                real = func(*args, **kwargs or {})
            return self._mode.fake_tensor_converter.from_real_tensor(self._mode, real, make_constant=True)
        return result
