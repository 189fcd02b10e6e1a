"""Registry of the operations that network files can use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeVar

from msgspec import Struct

from optadvise.memory.autograd import SizedTensor

OperationFunction = Callable[..., SizedTensor]
_F = TypeVar("_F", bound=OperationFunction)

# An operation takes the graph, input tensors, and named numbers and strings; it records itself and returns its output.
OPERATIONS: dict[str, OperationFunction] = {}


class OperationSignature(Struct, frozen=True):
    """Arguments of an operation, without the graph."""

    tensors: int  # number of input tensors
    numbers: tuple[str, ...]  # names of arguments that are products of dimensions
    text_arguments: tuple[str, ...]  # names


def operation(*names: str) -> Callable[[_F], _F]:
    """Register a function as an operation.

    Args:
        names: Names in network files (default: the name of the function).
    """

    def register(function: _F) -> _F:
        for name in names or (function.__name__,):
            OPERATIONS[name] = function
        return function

    return register


@cache
def list_signatures() -> Mapping[str, OperationSignature]:
    """Return the signature of every operation by its name."""
    return {name: _read_signature(function) for name, function in OPERATIONS.items()}


@cache
def list_text_arguments() -> frozenset[str]:
    """Return the names of string arguments; all others are numbers."""
    return frozenset(name for signature in list_signatures().values() for name in signature.text_arguments)


def _read_signature(function: OperationFunction) -> OperationSignature:
    _, *parameters = inspect.signature(function).parameters.values()  # the first is the graph
    named = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    text_arguments = tuple(parameter.name for parameter in named if parameter.annotation == "str")
    numbers = tuple(parameter.name for parameter in named if parameter.name not in text_arguments)
    return OperationSignature(tensors=len(parameters) - len(named), numbers=numbers, text_arguments=text_arguments)
