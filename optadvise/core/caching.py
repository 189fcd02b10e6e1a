"""Caches of function results, stored on the object that is the function's first argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar


class CacheOwner(Protocol):
    """Object that stores the caches of functions for its lifetime."""

    caches: dict[Callable[..., Any], Callable[..., Any]]


_Owner = TypeVar("_Owner", bound=CacheOwner)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def cached(size: int) -> Callable[[Callable[Concatenate[_Owner, _P], _R]], Callable[Concatenate[_Owner, _P], _R]]:
    """Cache the results of a function whose first argument is the owner and whose other arguments are hashable.

    Args:
        size: Maximum number of cached results per owner.
    """

    def decorate(function: Callable[Concatenate[_Owner, _P], _R]) -> Callable[Concatenate[_Owner, _P], _R]:
        @wraps(function)
        def wrapper(owner: _Owner, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            if wrapper not in owner.caches:
                owner.caches[wrapper] = lru_cache(maxsize=size)(partial(function, owner))
            result: _R = owner.caches[wrapper](*args, **kwargs)
            return result

        return wrapper

    return decorate
