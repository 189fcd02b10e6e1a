"""A block's program: lines that name operations, and the running of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from optadvise.memory.autograd import Tensor
from optadvise.memory.operations import Tape


def product(expression: str, dims: Mapping[str, int]) -> int:
    """Return the value of a product of dimensions and whole numbers, such as `heads*head_dim` or `8*hidden/3`.

    Args:
        expression: Factors joined by `*` and `/`, worked out from left to right.
        dims: Values by name.

    Raises:
        KeyError: A name is no dimension.
    """
    known = dims.get(expression)
    if known is not None:
        return known
    value = 1
    for multiplied in expression.split("*"):
        first, *divisors = multiplied.split("/")
        value *= int(first) if first.isdigit() else dims[first]
        for divisor in divisors:
            value //= int(divisor) if divisor.isdigit() else dims[divisor]
    return value


class Operation(Struct, frozen=True):
    """One line of a block's program."""

    out: str
    name: str  # a public method of `Tape`
    inputs: tuple[str, ...]
    numbers: Mapping[str, str]  # arguments, as products of dimensions
    words: Mapping[str, str]  # arguments, as they are
    needs: frozenset[str]  # flags without which the line is left out, and its first input stands for `out`
    lacks: frozenset[str]  # flags with which it is left out
    dying: tuple[str, ...]  # variables that no later line names


def run(program: Sequence[Operation], tape: Tape, start: Mapping[str, Tensor]) -> Tensor:
    """Run a program on a tape and return its last variable.

    Args:
        program: Its lines.
        tape: Where.
        start: Variables that are there at the beginning.
    """
    names: dict[str, Tensor] = dict(start)
    for tensor in names.values():
        tape.hold(tensor)
    dims, flags = tape.dims, tape.mode.flags
    result = next(iter(names.values()))
    for line in program:
        if line.needs <= flags and not line.lacks & flags:
            arguments: dict[str, Any] = {key: product(value, dims) for key, value in line.numbers.items()}
            result = getattr(tape, line.name)(*[names[name] for name in line.inputs], **arguments, **line.words)
        else:
            result = names[line.inputs[0]]
        tape.hold(result)
        if line.out in names:
            tape.drop(names[line.out])
        names[line.out] = result
        for word in line.dying:
            tape.drop(names.pop(word))
    return result


def compiled(lines: Sequence[Mapping[str, Any]], holds: Sequence[str] = ()) -> tuple[Operation, ...]:
    """Return a program with each variable's end worked out.

    Args:
        lines: As `rules/networks/` gives them: `out`, `op`, `in`, and optionally `numbers`, `words`, `if` (`a&!b`).
        holds: Variables that live until the end.
    """
    last = {word: index for index, line in enumerate(lines) for word in line["in"]}
    final = lines[-1]["out"]
    ends: dict[int, list[str]] = {}
    for word, index in last.items():
        if word not in holds and word != final:
            ends.setdefault(index, []).append(word)
    return tuple(
        Operation(line["out"], line["op"], tuple(line["in"]), line.get("numbers", {}), line.get("words", {}),
                  *_conditions(line.get("if")), tuple(ends.get(index, ())))
        for index, line in enumerate(lines)
    )  # fmt: skip


def _conditions(text: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return what `a&!b` asks for and what it forbids."""
    words = text.split("&") if text else []
    return frozenset(w for w in words if w[0] != "!"), frozenset(w[1:] for w in words if w[0] == "!")
