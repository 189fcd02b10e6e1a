"""Programs of network blocks for tests, in the syntax of `rules/networks/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optadvise.memory.autograd import AutogradGraph, SizedTensor
from optadvise.memory.programs import ProgramLine, parse_condition, run_program, with_last_uses
from optadvise.memory.records import ComputeMode, LiveMemory


def parse_line(text: str) -> ProgramLine:
    """Parse a line such as `y = linear x out=8 target=q if=eager&!chunked`."""
    out, _, operation, *terms = text.split()
    arguments = dict(term.split("=") for term in terms if "=" in term)
    condition = parse_condition(arguments.pop("if", None))
    text_arguments = {name: arguments.pop(name) for name in ("target",) if name in arguments}
    inputs = tuple(term for term in terms if "=" not in term)
    required, excluded = condition
    return ProgramLine(
        out=out, operation=operation, inputs=inputs, numbers=arguments, text_arguments=text_arguments,
        required_flags=required, excluded_flags=excluded,
    )  # fmt: skip


def program(*lines: str) -> tuple[ProgramLine, ...]:
    return with_last_uses([parse_line(line) for line in lines])


def simulate(
    *lines: str,
    mode: ComputeMode | None = None,
    dims: Mapping[str, int] | None = None,
    shape: tuple[int, ...],
    itemsize: int = 4,
    requires_grad: bool = True,
    saved_elsewhere: bool = True,
    name: str = "x",
) -> tuple[AutogradGraph, SizedTensor]:
    """Run lines on one input, and return the graph and the output."""
    graph = AutogradGraph(mode or ComputeMode(), dims or {})
    inputs = {name: graph.add_input(shape, itemsize, requires_grad, counted_elsewhere=saved_elsewhere)}
    return graph, run_program(program(*lines), graph, inputs)


def find_peak(moments: Iterable[LiveMemory]) -> LiveMemory:
    """Return the moment with the most bytes."""
    return max(moments, key=lambda live: live.total)
