"""Programs of network blocks: lines of operations, and their simulation on tensors without data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from optadvise.memory.autograd import AutogradGraph, SizedTensor
from optadvise.memory.operations import OPERATIONS


class ProgramLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a block's program: a variable, and the operation or part that computes it."""

    out: str
    operation: str
    inputs: tuple[str, ...]  # variables
    numbers: Mapping[str, str] = {}  # arguments that are products of dimensions
    text_arguments: Mapping[str, str] = {}  # by name
    required_flags: frozenset[str] = frozenset()  # if one is off, the line returns its first input
    excluded_flags: frozenset[str] = frozenset()  # if one is on, the line returns its first input
    last_uses: tuple[str, ...] = ()  # variables that no later line uses
    at: str = ""  # file:line:column, until it is compiled
    source: str = ""  # the line's text, until it is compiled

    def flags(self) -> frozenset[str]:
        """Return the flags of its condition."""
        return self.required_flags | self.excluded_flags

    def runs_with(self, flags: frozenset[str]) -> bool:
        """Return whether the line runs under these flags."""
        return self.required_flags <= flags and not self.excluded_flags & flags


def evaluate_product(expression: str, dims: Mapping[str, int]) -> int:
    """Return the value of a product of dimensions and whole numbers, such as `heads*head_dim` or `8*hidden/3`.

    Args:
        expression: Factors joined by `*` and `/`, evaluated from left to right.

    Raises:
        KeyError: A name is not a dimension.
    """
    if expression in dims:
        return dims[expression]
    value = 1
    for multiplied in expression.split("*"):
        first, *divisors = multiplied.split("/")
        value *= int(first) if first.isdigit() else dims[first]
        for divisor in divisors:
            value //= int(divisor) if divisor.isdigit() else dims[divisor]
    return value


def list_dimensions(expression: str) -> Iterator[str]:
    """Yield the dimensions of a product."""
    for factor in re.split(r"[*/]", expression):
        if factor and not factor.isdigit():
            yield factor


def run_program(program: Sequence[ProgramLine], graph: AutogradGraph, inputs: Mapping[str, SizedTensor]) -> SizedTensor:
    """Run a program and return its last variable.

    Args:
        inputs: Variables that exist before the first line.
    """
    variables = dict(inputs)
    for tensor in variables.values():
        graph.retain(tensor)
    result = next(iter(variables.values()))
    for line in program:
        tensors = [variables[name] for name in line.inputs]
        if line.runs_with(graph.mode.flags):
            numbers = {name: evaluate_product(value, graph.dims) for name, value in line.numbers.items()}
            result = OPERATIONS[line.operation](graph, *tensors, **numbers, **line.text_arguments)
        else:
            result = tensors[0]
        graph.retain(result)
        if line.out in variables:
            graph.release(variables[line.out])
        variables[line.out] = result
        for name in line.last_uses:
            graph.release(variables.pop(name))
    return result


def with_last_uses(lines: Sequence[ProgramLine], kept_alive: Sequence[str] = ()) -> tuple[ProgramLine, ...]:
    """Return a program with the last uses of variables filled in.

    Args:
        kept_alive: Variables that live until the end.
    """
    last_line = {name: index for index, line in enumerate(lines) for name in line.inputs}
    last_uses: dict[int, list[str]] = {}
    for name, index in last_line.items():
        if name not in kept_alive and name != lines[-1].out:
            last_uses.setdefault(index, []).append(name)
    return tuple(replace(line, last_uses=tuple(last_uses.get(index, ()))) for index, line in enumerate(lines))


def parse_condition(text: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return the flags that a condition such as `a&!b` requires, and those that it excludes."""
    terms = text.split("&") if text else []
    required = frozenset(term for term in terms if term[0] != "!")
    return required, frozenset(term[1:] for term in terms if term[0] == "!")
