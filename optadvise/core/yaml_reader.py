"""Typed reading of YAML values, with the position of every error.

The expected type determines how a scalar is read, instead of YAML's type inference: `1e-4` is a number if a number is
expected, and `no` is text if text is expected. `017` and duplicate keys are errors, unlike in PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NoReturn, TypeAlias

import yaml

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError, suggest_name
from optadvise.core.text import MAX_TEXT, is_printable

_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_MAX_NUMBER_LENGTH = 40  # characters
_MAX_DEPTH = 24  # nested lists and mappings; the shipped rules need ten
_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is about nine times faster


@dataclass
class Context:
    """State while a file is read."""

    path: str
    lines: list[str]
    facts: Mapping[str, Any] = field(default_factory=dict)  # declared facts, for conditions
    table_kind: str = ""  # kind of the current table, which determines the type of `then`
    references: list[tuple[str, str, str, str]] = field(default_factory=list)  # kind, id, where, source line

    def where(self, node: yaml.Node) -> str:
        """Return `file:line:column` of a node."""
        return f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def line(self, node: yaml.Node) -> str:
        """Return the source line of a node, stripped."""
        number = node.start_mark.line
        return self.lines[number].strip() if number < len(self.lines) else ""

    def fail(self, node: yaml.Node, message: str, code: ErrorCode = ErrorCode.INVALID_ENTRY) -> NoReturn:
        """Raise a `RuleFileError` at the position of a node."""
        raise RuleFileError(message, self.where(node), self.line(node), code=code)


KnownIds: TypeAlias = Mapping[str, Iterable[str]]  # ids that a file can refer to, by kind
Reader: TypeAlias = Callable[[yaml.Node, Context], Any]  # function that reads values of a type


def parse(text: str, path: str) -> tuple[yaml.Node, Context]:
    """Parse a YAML document into nodes with positions.

    Args:
        path: Path of the file in error messages.

    Raises:
        RuleFileError: The text is not valid YAML, or does not contain exactly one document.
    """
    context = Context(path, text.splitlines())
    try:
        node = _compose(text, context)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        number = mark.line if mark else 0
        source = context.lines[number].strip() if number < len(context.lines) else ""
        hint = "; quote a comparison, as in '> 8192'" if re.search(r":\s*[><]", source) else ""
        where = f"{path}:{number + 1}:{(mark.column if mark else 0) + 1}"
        message = f"invalid YAML: {error.problem or error.context}{hint}"
        raise RuleFileError(message, where, source, code=ErrorCode.INVALID_SYNTAX) from error
    except yaml.YAMLError as error:
        raise RuleFileError(f"invalid YAML: {error}", path, code=ErrorCode.INVALID_SYNTAX) from error
    if node is None:
        raise RuleFileError("the file is empty; add its entries, or delete it", path, code=ErrorCode.INVALID_SYNTAX)
    return node, context


def resolve_references(contexts: Iterable[Context], known_ids: KnownIds) -> None:
    """Check the references in files.

    Raises:
        RuleFileError: A reference does not exist.
    """
    for context in contexts:
        for kind, name, where, source in context.references:
            if name not in known_ids[kind]:
                message = f"unknown {kind} {name!r}; {suggest_name(name, known_ids[kind])}"
                raise RuleFileError(message, where, source, code=ErrorCode.UNKNOWN_REFERENCE)


def _compose(text: str, context: Context) -> yaml.Node | None:
    """Build YAML nodes from parser events; reject aliases, tags and deep nesting.

    Nested aliases can exhaust memory, tags can run code, and deep nesting overflows the stack.
    """
    root: yaml.Node | None = None
    open_: list[tuple[list[Any], list[yaml.Node]]] = []  # for each open collection: its items and its pending key
    event: Any
    for event in yaml.parse(text, Loader=_FASTEST):
        kind = type(event)
        if kind is yaml.ScalarEvent:
            node: yaml.Node = yaml.ScalarNode("", event.value, event.start_mark, event.end_mark, event.style)
        elif kind is yaml.SequenceStartEvent:
            node = yaml.SequenceNode("", [], event.start_mark, event.end_mark)
        elif kind is yaml.MappingStartEvent:
            node = yaml.MappingNode("", [], event.start_mark, event.end_mark)
        elif kind is yaml.SequenceEndEvent or kind is yaml.MappingEndEvent:
            open_.pop()
            continue
        elif kind is yaml.AliasEvent:
            context.fail(_locate(event), _NO_ALIASES, ErrorCode.INVALID_SYNTAX)
        elif kind is yaml.DocumentStartEvent and root is not None:
            context.fail(_locate(event), "a file must contain one YAML document", ErrorCode.INVALID_SYNTAX)
        else:
            continue
        if event.anchor is not None:
            context.fail(node, _NO_ALIASES, ErrorCode.INVALID_SYNTAX)
        if event.tag is not None and event.tag != "!":
            context.fail(node, "YAML tags are not supported; write a plain value", ErrorCode.INVALID_SYNTAX)
        if root is None:
            root = node
        else:
            values, pending_key = open_[-1]
            if not pending_key:
                values.append(node)
            elif pending_key[0] is _NO_KEY:
                pending_key[0] = node
            else:
                values.append((pending_key[0], node))
                pending_key[0] = _NO_KEY
        if kind is not yaml.ScalarEvent:
            open_.append((node.value, [_NO_KEY] if kind is yaml.MappingStartEvent else []))
            if len(open_) > _MAX_DEPTH:
                context.fail(node, f"must not nest deeper than {_MAX_DEPTH} levels", ErrorCode.INVALID_SYNTAX)
    return root


_NO_KEY = yaml.Node("", None, None, None)
_NO_ALIASES = "YAML anchors and aliases are not supported; repeat the value"


def _locate(event: Any) -> yaml.Node:
    return yaml.ScalarNode("", "", event.start_mark, event.end_mark)


def _read_scalar(node: yaml.Node, context: Context, expected: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
        context.fail(node, f"expected {expected}, found {kind}")
    value = str(node.value)
    if not value.isprintable():
        invisible = next((character for character in value if not is_printable(character)), None)
        if invisible is not None:
            context.fail(node, f"must not contain the invisible character {invisible!r}; remove it")
    if len(value) > MAX_TEXT:
        context.fail(node, f"must have at most {MAX_TEXT:,} characters")
    return value


def _is_quoted(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style in ("'", '"', "|", ">")


def read_text(node: yaml.Node, context: Context) -> str:
    """Read a non-empty text; `no`, `on` and `1e-4` are text as well."""
    value = _read_scalar(node, context, "text").strip()
    if not value:
        context.fail(node, "expected text, found nothing; quote text that contains a comma inside {…}")
    return value


def read_number(node: yaml.Node, context: Context) -> float | int:
    """Read a number, such as `1e-4`; a leading zero as in `017` is an error."""
    value = _read_scalar(node, context, "a number")
    if not _NUMBER.fullmatch(value):
        hint = "; remove the leading zero" if re.fullmatch(r"0\d+", value) else ""
        context.fail(node, f"expected a number, found {value!r}{hint}")
    if len(value) > _MAX_NUMBER_LENGTH or not isfinite(float(value)):
        context.fail(node, "the number is too large")
    return int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)


def read_whole_number(node: yaml.Node, context: Context) -> int:
    """Read a whole number, such as `5.0e+8`."""
    value = read_number(node, context)
    if value != int(value):
        context.fail(node, f"expected a whole number, found {value!r}")
    return int(value)


def read_decimal(node: yaml.Node, context: Context) -> float:
    """Read a number."""
    return float(read_number(node, context))


def read_flag(node: yaml.Node, context: Context) -> bool:
    """Read `true` or `false`; other spellings are errors."""
    value = _read_scalar(node, context, "true or false")
    if value not in ("true", "false"):
        context.fail(node, f"expected true or false, found {value!r}")
    return value == "true"


def read_plain(node: yaml.Node, context: Context) -> Any:
    """Read a number, boolean, text, null, or a list of these."""
    if isinstance(node, yaml.SequenceNode):
        return [read_plain(item, context) for item in node.value]
    value = _read_scalar(node, context, "a plain value")
    if _is_quoted(node):
        return value
    if value in ("null", "~", ""):
        return None
    if value in ("true", "false"):
        return value == "true"
    if value.lower() in ("yes", "no", "on", "off", "true", "false"):
        context.fail(node, f"{value!r} is ambiguous in YAML; use true, false or a quoted text")
    if value[0] in "+-.0123456789" and re.fullmatch(r"[\d.eE+-]+", value):
        return read_number(node, context)
    return value


def make_pattern_reader(pattern: str, expected: str) -> Reader:
    """Return a reader of text that matches a pattern.

    The patterns protect generated programs and command lines from injected code.

    Args:
        pattern: Regular expression for the whole text.
        expected: Description of the expected text for error messages.
    """
    form = re.compile(pattern)

    def read(node: yaml.Node, context: Context) -> str:
        value = read_text(node, context)
        if not form.fullmatch(value):
            context.fail(node, f"expected {expected}, found {value!r}")
        return value

    return read


def make_choice_reader(*choices: str) -> Reader:
    """Return a reader of text that must be one of the choices."""

    def read(node: yaml.Node, context: Context) -> str:
        value = _read_scalar(node, context, f"one of {', '.join(choices)}")
        if value not in choices:
            context.fail(node, f"{value!r} is not supported; {suggest_name(value, choices)}")
        return value

    return read


def make_reference_reader(kind: str) -> Reader:
    """Return a reader of an id that is defined elsewhere; `resolve_references` checks it."""

    def read(node: yaml.Node, context: Context) -> str:
        value = read_text(node, context)
        context.references.append((kind, value, context.where(node), context.line(node)))
        return value

    return read


def make_list_reader(item: Reader, minimum: int = 0) -> Callable[[yaml.Node, Context], list[Any]]:
    """Return a reader of a list with a minimum length."""

    def read(node: yaml.Node, context: Context) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            context.fail(node, "expected a list: [a, b]")
        if len(node.value) < minimum:
            context.fail(node, f"expected at least {minimum} item{'s' if minimum > 1 else ''}")
        return [item(child, context) for child in node.value]

    return read


def is_null(node: yaml.Node) -> bool:
    """Return whether a node is an unquoted `null`, `~` or empty."""
    return isinstance(node, yaml.ScalarNode) and not _is_quoted(node) and node.value in ("null", "~", "")


def list_pairs(node: yaml.Node, context: Context) -> list[tuple[yaml.Node, str, yaml.Node]]:
    """Return the key nodes, keys and value nodes of a mapping; a duplicate key is an error."""
    if not isinstance(node, yaml.MappingNode):
        context.fail(node, "expected a mapping: key: value")
    keys: set[str] = set()
    pairs = []
    for key_node, value_node in node.value:
        key = _read_scalar(key_node, context, "a key")
        if key in keys:
            context.fail(key_node, f"key {key!r} appears twice; remove one", ErrorCode.DUPLICATE_ENTRY)
        keys.add(key)
        pairs.append((key_node, key, value_node))
    return pairs
