"""Run code that was not written for fake tensors on them. Imports torch."""

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

# Elements of a tensor whose values are kept: enough for a network's drop rates, one a layer.
_MAX_ELEMENTS = 1024
_aten = torch.ops.aten
_RANGES = {_aten.arange.default, _aten.arange.start, _aten.arange.start_step, _aten.linspace.default}


@contextlib.contextmanager
def allow_fake_modules() -> Iterator[None]:
    """Patch torch so that networks can be built and moved under fake tensors, while the context lasts."""
    with contextlib.ExitStack() as stack:

        def patch(owner: object, name: str, value: object) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        # Some draw until the values suit them, and none changes the bytes of a weight.
        for name, value in list(vars(nn.init).items()):
            if name.endswith("_") and not name.startswith("_") and callable(value):
                patch(nn.init, name, _return_tensor)
        # `module.to()` swaps tensors, and rejects those with weak references, which fake mode holds to many.
        patch(torch.utils, "weakref", types.SimpleNamespace(getweakrefs=lambda _: ()))
        patch(fake_tensor, "CONSTANT_NUMEL_LIMIT", _MAX_ELEMENTS)
        yield


def _return_tensor(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor


class KeptValues(TorchDispatchMode):  # type: ignore[misc]
    """Keep the values of ranges such as `linspace(0, 0.1, layers)`; optionally guess values that are read back.

    A norm or a step size that an optimizer computes with changes no shape: it reads 1, or False. Reading a value that
    would change a shape, such as an index, still raises.
    """

    def __init__(self, mode: FakeTensorMode, *, guess: bool = False) -> None:
        """Keep the fake mode.

        Args:
            guess: Return 1 or False where a value is read back, instead of raising.
        """
        super().__init__()
        self._mode = mode
        self._guess = guess

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        """Run an operation, with its values if it creates a range."""
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
