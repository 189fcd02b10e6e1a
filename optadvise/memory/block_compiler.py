"""Compilation of a family's blocks: expansion of parts and validation of names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

from msgspec import Struct
from msgspec.structs import replace

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError, suggest_name
from optadvise.memory.network_families import BlockDescription, NamedShape, NetworkFamily, Part, Stage
from optadvise.memory.operations import list_signatures
from optadvise.memory.programs import ProgramLine, list_dimensions, with_last_uses

RUN_FLAGS = {"eager", "selective", "chunked", "masked"}  # flags that the run sets, not the config
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


class _Names(Struct, frozen=True):
    """Names that the lines of a family's blocks can use."""

    dims: Collection[str]
    flags: Collection[str]


def compile_family(family: NetworkFamily, parts: Mapping[str, Part]) -> NetworkFamily:
    """Return a family with compiled blocks: parts are expanded to operations, and all names are checked.

    Raises:
        RuleFileError: A line, shape or stage is invalid.
    """
    stages = [(shape, stage) for shape in family.shapes.values() for stage in shape.stages or ()]
    stage_dims = {name for _, stage in stages for name in stage.dims}
    dims = {*family.dims, *family.derived, *family.flags}
    names = _Names(dims | stage_dims, _list_flags(family, parts))
    blocks: dict[str, BlockDescription] = {}
    for block in family.blocks:
        outputs = {earlier.output for earlier in blocks.values() if earlier.output}
        lines = _compile_block(block, parts, names, {block.input, *outputs})
        blocks[block.block] = replace(block, lines=lines)
    for shape in family.shapes.values():
        _check_shape(shape, family)
    for shape, stage in stages:
        _check_stage(shape, stage, blocks, dims - stage_dims)
    shapes = {name: replace(shape, family=family.family) for name, shape in family.shapes.items()}
    return replace(family, blocks=tuple(blocks.values()), shapes=shapes)


def _list_flags(family: NetworkFamily, parts: Mapping[str, Part]) -> set[str]:
    """Return the flags that conditions in a family's blocks can use."""
    chosen = {flag for choice in family.choices.values() for flag in choice.values.values()}
    in_parts = {flag for part in parts.values() for line in part.lines for flag in line.flags()}
    return {*family.flags, *chosen, *in_parts, *RUN_FLAGS}


def _check_shape(shape: NamedShape, family: NetworkFamily) -> None:
    """Check that a named shape sets the required dimensions, and only what its family declares."""
    kinds = {
        "dimension": (shape.dims, [*family.dims, *family.derived]),
        "flag": ([flag.removeprefix("!") for flag in shape.flags], list(family.flags)),
        "choice": (shape.choices, list(family.choices)),
    }
    for kind, (names, accepted) in kinds.items():
        for name in names:
            if name not in accepted:
                raise RuleFileError(
                    f"family {family.family!r} has no {kind} {name!r}; {suggest_name(name, accepted)}",
                    shape.at, code=ErrorCode.UNKNOWN_REFERENCE,
                )  # fmt: skip
    missing = [name for name, dim in family.dims.items() if dim.default is None and name not in shape.dims]
    if missing and shape.stages is None:
        raise RuleFileError(f"the shape lacks dimensions: {', '.join(missing)}", shape.at, code=ErrorCode.MISSING_KEY)


def _check_stage(
    shape: NamedShape, stage: Stage, blocks: Mapping[str, BlockDescription], family_dims: set[str]
) -> None:
    """Check that a stage uses an existing block and sets exactly the dimensions that the family does not set."""
    if stage.block not in blocks:
        raise RuleFileError(
            f"block {stage.block!r} does not exist; {suggest_name(stage.block, blocks)}",
            shape.at, code=ErrorCode.UNKNOWN_REFERENCE,
        )  # fmt: skip
    required = blocks[stage.block].dims() - family_dims
    for name in sorted(required ^ set(stage.dims)):
        is_missing = name in required
        raise RuleFileError(
            f"a stage of block {stage.block!r} {'requires' if is_missing else 'does not accept'} {name}=NUMBER",
            shape.at, code=ErrorCode.MISSING_KEY if is_missing else ErrorCode.UNKNOWN_KEY,
        )  # fmt: skip


def _fail(line: ProgramLine, message: str, code: ErrorCode) -> NoReturn:
    raise RuleFileError(message, line.at, line.source, code=code)


def _compile_block(
    block: BlockDescription, parts: Mapping[str, Part], names: _Names, variables: Collection[str]
) -> tuple[ProgramLine, ...]:
    """Return a block's checked lines, with the last use of each variable.

    Args:
        names: Names that products and conditions can use.
        variables: Variables that exist before the first line.
    """
    lines = _expand_parts(block.lines, parts)
    computed = set(variables)
    for line in lines:
        _check_names(line, names, computed)
        computed.add(line.out)
    used = {*block.kept_alive, *(name for line in lines for name in line.inputs)}
    for line in lines[:-1]:
        if line.out not in used:
            _fail(line, f"variable {line.out!r} is never used", ErrorCode.INVALID_ENTRY)
    return with_last_uses([replace(line, at="", source="") for line in lines], block.kept_alive)


def _check_names(line: ProgramLine, names: _Names, computed: Collection[str]) -> None:
    """Check the variables, flags and dimensions of a line."""
    for name in line.inputs:
        if name not in computed:
            hint = suggest_name(name, sorted(computed))
            _fail(line, f"no earlier line computes variable {name!r}; {hint}", ErrorCode.UNKNOWN_REFERENCE)
    if line.out in computed and line.out != "x":
        _fail(line, f"variable {line.out!r} is computed twice; only x can be reassigned", ErrorCode.DUPLICATE_ENTRY)
    for flag in line.flags():
        if flag not in names.flags:
            hint = suggest_name(flag, sorted(names.flags))
            _fail(line, f"flag {flag!r} does not exist; {hint}", ErrorCode.UNKNOWN_REFERENCE)
    for number in line.numbers.values():
        for name in list_dimensions(number):
            if name not in names.dims:
                hint = suggest_name(name, sorted(names.dims))
                _fail(line, f"dimension {name!r} does not exist; {hint}", ErrorCode.UNKNOWN_REFERENCE)


def _expand_parts(lines: Sequence[ProgramLine], parts: Mapping[str, Part]) -> list[ProgramLine]:
    """Return lines with every part replaced by its lines, whose variables get unique names."""
    expanded: list[ProgramLine] = []
    for line in lines:
        if line.operation in parts:
            expanded += _expand_parts(_expand_part(line, parts[line.operation]), parts)
        else:
            _check_operation(line, parts)
            expanded.append(line)
    return expanded


def _expand_part(call: ProgramLine, part: Part) -> list[ProgramLine]:
    """Return a part's lines for one call."""
    header = part.part
    if len(call.inputs) != len(header.tensors):
        accepted = f"{len(header.tensors)} tensors ({', '.join(header.tensors)})"
        _fail(call, f"{header.name} takes {accepted}, found {len(call.inputs)}", ErrorCode.INVALID_ENTRY)
    _check_arguments(call, header.numbers)
    variables = dict(zip(header.tensors, call.inputs, strict=True))
    lines = []
    for line in part.lines:
        out = call.out if line is part.lines[-1] else f"{call.out}.{line.out}"
        unknown = next((name for name in line.inputs if name not in variables), None)
        if unknown is not None:
            _fail(line, f"no earlier line computes variable {unknown!r}", ErrorCode.UNKNOWN_REFERENCE)
        lines.append(
            replace(
                line,
                out=out,
                inputs=tuple(variables[name] for name in line.inputs),
                numbers={name: _substitute(number, call.numbers) for name, number in line.numbers.items()},
                required_flags=call.required_flags | line.required_flags,
                excluded_flags=call.excluded_flags | line.excluded_flags,
            )
        )
        variables[line.out] = out
    return lines


def _substitute(product: str, numbers: Mapping[str, str]) -> str:
    """Replace the names of a part's numbers in a product by the values of a call."""
    return _NAME.sub(lambda name: numbers.get(name[0], name[0]), product)


def _check_operation(line: ProgramLine, parts: Mapping[str, Part]) -> None:
    """Check that a line's operation exists and accepts its inputs and arguments."""
    signature = list_signatures().get(line.operation)
    if signature is None:
        hint = suggest_name(line.operation, [*list_signatures(), *parts])
        _fail(line, f"operation {line.operation!r} does not exist; {hint}", ErrorCode.UNKNOWN_REFERENCE)
    if len(line.inputs) != signature.tensors:
        problem = f"{line.operation} takes {signature.tensors} tensors, found {len(line.inputs)}"
        _fail(line, problem, ErrorCode.INVALID_ENTRY)
    _check_arguments(line, (*signature.numbers, *signature.text_arguments))


def _check_arguments(line: ProgramLine, accepted: Collection[str]) -> None:
    """Check that a line passes only arguments that its operation or part accepts."""
    unknown = next((name for name in (*line.numbers, *line.text_arguments) if name not in accepted), None)
    if unknown is not None:
        hint = suggest_name(unknown, accepted)
        _fail(line, f"{line.operation} has no argument {unknown!r}; {hint}", ErrorCode.UNKNOWN_KEY)
