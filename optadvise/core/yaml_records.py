"""Reading of YAML into typed records, with the position of every error.

A record is a frozen `msgspec.Struct`. Its fields declare the accepted keys; fields without a default are required.
`core.yaml_types` declares additional field types. A field `at` is set to the record's `file:line:column`. A record with
`__shorthand__` can be written as the value of that field alone.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from msgspec import Meta, Struct, UnsetType
from msgspec.structs import fields

from optadvise.core import yaml_reader
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError, suggest_name
from optadvise.core.yaml_reader import Context, KnownIds, Reader, is_null, list_pairs

_RecordT = TypeVar("_RecordT", bound=Struct)
_POSITION = "at"
_BY_NAME: dict[str, Reader] = {}  # registered readers
_SCALARS: dict[Any, Reader] = {
    str: yaml_reader.read_text,
    int: yaml_reader.read_whole_number,
    float: yaml_reader.read_decimal,
    bool: yaml_reader.read_flag,
}


def register_reader(name: str) -> Callable[[Reader], Reader]:
    """Register a reader of types with `Meta(extra={"reader": name})`."""

    def register(read: Reader) -> Reader:
        _BY_NAME[name] = read
        return read

    return register


def read_record(kind: type[_RecordT], node: yaml.Node, context: Context) -> _RecordT:
    """Read a node into a record.

    Args:
        node: A mapping, or a scalar if the record has a shorthand.
        context: The state of the file; references are added to it.

    Raises:
        RuleFileError: The node does not match the type.
    """
    record: _RecordT = find_reader(kind)(node, context)
    return record


def read_file(
    kind: type[_RecordT], content: bytes, path: str, known_ids: KnownIds
) -> tuple[_RecordT, yaml.Node, Context]:
    """Read a file into a record, and check its references.

    Args:
        path: Path of the file in error messages.

    Returns:
        The record, and the root node and context for further checks.

    Raises:
        RuleFileError: The file is invalid, or a reference does not exist.
    """
    node, context = yaml_reader.parse(decode_text(content, path), path)
    record = read_record(kind, node, context)
    yaml_reader.resolve_references([context], known_ids)
    return record, node, context


def decode_text(content: bytes, path: str) -> str:
    """Return a file's content as text.

    Raises:
        RuleFileError: The content is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        message = "the file is not UTF-8 text; save it as UTF-8"
        raise RuleFileError(message, path, code=ErrorCode.INVALID_SYNTAX) from error


@cache
def find_reader(kind: Any) -> Reader:
    """Return the reader of a type.

    Args:
        kind: A record, a scalar, `Literal`, `tuple[X, ...]`, `Mapping[K, V]`, `X | None`, or one of these annotated.

    Raises:
        TypeError: The type is not supported.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _find_annotated_reader(arguments[0], [meta for meta in arguments[1:] if isinstance(meta, Meta)])
    if origin in (Union, types.UnionType):
        return _make_optional_reader(tuple(member for member in arguments if member is not UnsetType))
    if origin is Literal:
        return yaml_reader.make_choice_reader(*arguments)
    if origin is tuple:
        return _make_sequence_reader(find_reader(arguments[0]), 0)
    if origin is not None and issubclass(origin, Mapping):
        return _make_mapping_reader(find_reader(arguments[0]), find_reader(arguments[1]))
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _make_record_reader(kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    raise TypeError(f"{kind!r} cannot be read from YAML")


def _find_annotated_reader(kind: Any, metas: list[Meta]) -> Reader:
    extra = {key: value for meta in metas for key, value in (meta.extra or {}).items()}
    if "reader" in extra:
        return _BY_NAME[extra["reader"]]
    if "min_items" in extra:
        return _make_sequence_reader(find_reader(get_args(kind)[0]), extra["min_items"])
    if "refers_to" in extra:
        return yaml_reader.make_reference_reader(extra["refers_to"])
    for meta in metas:
        if meta.pattern is not None:
            pattern = meta.pattern.removeprefix("^").removesuffix("$")
            return yaml_reader.make_pattern_reader(pattern, meta.description or "a text")
        if meta.min_length is not None and get_origin(kind) is tuple:
            return _make_sequence_reader(find_reader(get_args(kind)[0]), meta.min_length)
    return find_reader(kind)


def _make_optional_reader(members: tuple[Any, ...]) -> Reader:
    """Return the reader of `X | None`; other unions need a registered reader."""
    others = [member for member in members if member is not type(None)]
    if len(others) != 1:
        raise TypeError(f"a union of {others!r} cannot be read from YAML")
    read = find_reader(others[0])
    if len(others) == len(members):
        return read
    return lambda node, context: None if is_null(node) else read(node, context)


def _make_sequence_reader(read_item: Reader, minimum: int) -> Reader:
    read = yaml_reader.make_list_reader(read_item, minimum)
    return lambda node, context: tuple(read(node, context))


def _make_mapping_reader(read_key: Reader, read_value: Reader) -> Reader:
    def read(node: yaml.Node, context: Context) -> dict[Any, Any]:
        return {read_key(key, context): read_value(value, context) for key, _, value in list_pairs(node, context)}

    return read


def _make_record_reader(kind: type[Struct]) -> Reader:
    accepted = {field.encode_name: field for field in fields(kind) if not is_internal(field.type)}
    required = [name for name, field in accepted.items() if field.required]
    has_position = _POSITION in kind.__struct_fields__
    readers: dict[str, Reader] = {}  # created on first use, because records can be recursive

    def read(node: yaml.Node, context: Context) -> Struct:
        values: dict[str, object] = {_POSITION: context.where(node)} if has_position else {}
        for key_node, key, value_node in list_pairs(node, context):
            field = accepted.get(key)
            if field is None:
                hint = suggest_name(key, accepted) or "accepted: " + ", ".join(accepted)
                context.fail(key_node, f"unknown key {key!r}; {hint}", ErrorCode.UNKNOWN_KEY)
            if key not in readers:
                readers[key] = find_reader(field.type)
            values[field.name] = readers[key](value_node, context)
        missing = [name for name in required if accepted[name].name not in values]
        if missing:
            message = f"missing key{'s' if len(missing) > 1 else ''}: {', '.join(missing)}"
            context.fail(node, message, ErrorCode.MISSING_KEY)
        return kind(**values)

    shorthand: str | None = getattr(kind, "__shorthand__", None)
    if shorthand is None:
        return read
    read_short = find_reader(accepted[shorthand].type)
    return lambda node, context: (
        read(node, context) if isinstance(node, yaml.MappingNode) else kind(**{shorthand: read_short(node, context)})
    )


def is_internal(kind: Any) -> bool:
    """Return whether a field is set by optadvise instead of read from a file."""
    metas = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return any(isinstance(meta, Meta) and (meta.extra or {}).get("internal") for meta in metas)


register_reader("plain")(yaml_reader.read_plain)


@register_reader("setting")
def _read_setting(node: yaml.Node, context: Context) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return yaml_reader.read_plain(node, context)
    read_key = yaml_reader.make_pattern_reader(r"[A-Za-z_][A-Za-z0-9_]*", "a Python identifier")
    return {read_key(key, context): _read_setting(value, context) for key, _, value in list_pairs(node, context)}


@register_reader("point")
def _read_point(node: yaml.Node, context: Context) -> tuple[float, float]:
    numbers = yaml_reader.make_list_reader(yaml_reader.read_decimal, 2)(node, context)
    if len(numbers) != 2:
        context.fail(node, f"expected two numbers, found {len(numbers)}")
    return numbers[0], numbers[1]
