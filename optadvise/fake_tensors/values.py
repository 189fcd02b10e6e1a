"""Compatibility of user code and libraries with fake tensors. Imports torch."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# Largest tensor whose values are kept, in elements; drop rates of a network have one element per layer.
_MAX_ELEMENTS = 1024
_aten = torch.ops.aten
_RANGES = {_aten.arange.default, _aten.arange.start, _aten.arange.start_step, _aten.linspace.default}


@contextlib.contextmanager
def allow_fake_modules() -> Iterator[None]:
    """Patch torch within the context, so that modules can be built and moved with fake tensors."""
    with contextlib.ExitStack() as stack:

        def patch(owner: object, name: str, value: object) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        # Some initializers loop until the values are in range, and none changes memory.
        for name, value in list(vars(nn.init).items()):
            if name.endswith("_") and not name.startswith("_") and callable(value):
                patch(nn.init, name, _return_tensor)
        # `module.to()` rejects tensors with weak references, which fake mode creates.
        patch(torch.utils, "weakref", types.SimpleNamespace(getweakrefs=lambda _: ()))
        patch(fake_tensor, "CONSTANT_NUMEL_LIMIT", _MAX_ELEMENTS)
        yield


def _return_tensor(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor


class KeptValues(TorchDispatchMode):  # type: ignore[misc]
    """Keep the values of ranges such as `linspace(0, 0.1, layers)`; optionally guess values that are read.

    Norms and step sizes of optimizers do not change shapes, so they read as 1 or False. Reading a value that changes a
    shape, such as an index, still raises an error.
    """

    def __init__(self, mode: FakeTensorMode, *, guess: bool = False) -> None:
        """Store the fake mode.

        Args:
            guess: Return 1 or False for a value that is read, instead of raising an error.
        """
        super().__init__()
        self._mode = mode
        self._guess = guess

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        """Run an operation; keep the values if it creates a range."""
        try:
            result = func(*args, **kwargs or {})
        except DataDependentOutputException:
            if not (self._guess and func is _aten._local_scalar_dense.default):
                raise
            dtype = args[0].dtype
            return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func in _RANGES and isinstance(result, FakeTensor) and result.numel() <= _MAX_ELEMENTS:
            with fake_tensor.unset_fake_temporarily():
                real = func(*args, **kwargs or {})
            return self._mode.fake_tensor_converter.from_real_tensor(self._mode, real, make_constant=True)
        return result
