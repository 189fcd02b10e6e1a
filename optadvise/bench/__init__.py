"""Measuring optimizers on this machine. `optadvise.bench(…)` is the function of the library, this its package."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is called as the function of its name: both are `optadvise.bench`."""

    def __call__(self, *optimizers: Any, **options: Any) -> dict[str, Any]:
        from optadvise.api import bench

        return bench(*optimizers, **options)


sys.modules[__name__].__class__ = _Callable
