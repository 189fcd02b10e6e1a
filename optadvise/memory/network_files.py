"""Reader of `rules/networks/`: families of networks as blocks of operations, and their named shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError
from optadvise.core.yaml_reader import Context, read_flag, read_text
from optadvise.core.yaml_records import read_file, register_reader
from optadvise.memory.block_compiler import compile_family
from optadvise.memory.network_families import NetworkFamily, Part, PartHeader, PartsFile, Stage
from optadvise.memory.operations import list_text_arguments
from optadvise.memory.programs import ProgramLine, parse_condition

PARTS, SOURCES = "parts", "sources"  # files that families share
_VARIABLE = re.compile(r"[a-z_][a-z0-9_]*")
_PRODUCT = re.compile(r"[a-z0-9_]+([*/][a-z0-9_]+)*")


def read_networks(files: Sequence[tuple[Path, bytes]]) -> dict[str, NetworkFamily]:
    """Read the files of a `networks/` folder and return the compiled families by id.

    Args:
        files: Paths with file contents; `parts.yaml` contains the parts that families share.

    Raises:
        RuleFileError: A file is invalid.
    """
    parts: dict[str, Part] = {}
    for file, content in files:
        if file.stem == PARTS:
            parts |= {part.part.name: part for part in read_file(PartsFile, content, str(file), {})[0].parts}
    families: dict[str, NetworkFamily] = {}
    for file, content in files:
        if file.stem in (PARTS, SOURCES):
            continue
        family, _, _ = read_file(NetworkFamily, content, str(file), {})
        if family.family in families:
            raise RuleFileError(f"family {family.family!r} is defined twice", family.at, code=ErrorCode.DUPLICATE_ENTRY)
        families[family.family] = compile_family(family, parts)
    return families


@register_reader("product")
def _read_product(node: yaml.Node, context: Context) -> str:
    value = str(read_text(node, context))
    if not _PRODUCT.fullmatch(value):
        context.fail(node, f"expected a product of names and whole numbers, such as heads*head_dim, found {value!r}")
    return value


@register_reader("flag-or-product")
def _read_flag_or_product(node: yaml.Node, context: Context) -> bool | str:
    return bool(read_flag(node, context)) if node.value in ("true", "false") else _read_product(node, context)


@register_reader("program-line")
def _read_line(node: yaml.Node, context: Context) -> ProgramLine:
    """Read one line of a program: `name = operation inputs… number=product word=name if=flag`."""
    terms = read_text(node, context).split()
    if len(terms) < 3 or terms[1] != "=" or not _VARIABLE.fullmatch(terms[0]):
        context.fail(node, "expected `name = operation inputs… key=value…`")
    arguments = dict(term.split("=", 1) for term in terms[3:] if "=" in term)
    required, excluded = parse_condition(arguments.pop("if", None))
    return ProgramLine(
        out=terms[0],
        operation=terms[2],
        inputs=tuple(term for term in terms[3:] if "=" not in term),
        numbers={name: value for name, value in arguments.items() if name not in list_text_arguments()},
        text_arguments={name: value for name, value in arguments.items() if name in list_text_arguments()},
        required_flags=required,
        excluded_flags=excluded,
        at=context.where(node),
        source=context.line(node),
    )


@register_reader("part-header")
def _read_part_header(node: yaml.Node, context: Context) -> PartHeader:
    """Read the header of a part: `name tensor… number=default…`."""
    name, *terms = read_text(node, context).split()
    tensors = tuple(term for term in terms if "=" not in term)
    return PartHeader(name=name, tensors=tensors, numbers=tuple(term.split("=")[0] for term in terms if "=" in term))


@register_reader("stage")
def _read_stage(node: yaml.Node, context: Context) -> Stage:
    """Read one stage of a shape: `block*repeat name=number…`."""
    first, *terms = read_text(node, context).split()
    name, _, repeat = first.partition("*")
    pairs = [term.partition("=") for term in terms]
    if (repeat and not repeat.isdigit()) or not all(value.isdigit() for _, _, value in pairs):
        context.fail(node, "expected `block*repeat name=number…`, as in same*3 mid=64 out=256")
    return Stage(block=name, repeat=repeat or "1", dims={key: int(value) for key, _, value in pairs})
