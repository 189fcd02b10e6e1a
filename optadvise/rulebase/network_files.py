"""Reads `rules/networks/`: families of networks as blocks of operations, and the well-known shapes of each.

Apart from the other rules and with a cache entry of its own, as most commands need none of it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from optadvise.core.errors import RuleFileError, nearest
from optadvise.core.yaml_reader import (
    Context,
    Shape,
    flag,
    many,
    mapping,
    number,
    one_of,
    parse,
    plain,
    record,
    shaped,
    text,
)
from optadvise.memory.operations import Tape

PARTS, SOURCES = "parts", "sources"  # the files of what families share
_WORD = re.compile(r"[a-z_][a-z0-9_]*")
_PRODUCT = re.compile(r"[a-z0-9_]+([*/][a-z0-9_]+)*")


@cache
def operations() -> dict[str, tuple[int, dict[str, type]]]:
    """Return what programs may name: each operation's count of tensors, and its further arguments with their kind."""
    found: dict[str, tuple[int, dict[str, type]]] = {}
    for name, method in inspect.getmembers(Tape, inspect.isfunction):
        signature = inspect.signature(method)
        if name.startswith("_") or signature.return_annotation != "Tensor" or name == "given":
            continue
        own = [p for p in signature.parameters.values() if p.name != "self"]
        tensors = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in own)
        found[name] = tensors, {p.name: str if p.annotation == "str" else int for p in own if p.kind is p.KEYWORD_ONLY}
    return found


# -- the shapes of the files ---------------------------------------------------------------------------------------


@shaped({"type": ["string", "integer", "boolean"]})
def _product(node: yaml.Node, context: Context) -> str:
    value = str(text(node, context))
    if not _PRODUCT.fullmatch(value):
        context.fail(node, f"expected a product of names and whole numbers, such as heads*head_dim, found {value!r}")
    return value


@shaped({"type": "string"})
def _line(node: yaml.Node, context: Context) -> dict[str, Any]:
    """Read one line of a program: `name = operation inputs… number=product word=name if=flag`."""
    words = text(node, context).split()
    if len(words) < 3 or words[1] != "=" or not _WORD.fullmatch(words[0]):
        context.fail(node, "expected `name = operation inputs… key=value…`")
    given = dict(word.split("=", 1) for word in words[3:] if "=" in word)
    condition = given.pop("if", None)
    inputs = [word for word in words[3:] if "=" not in word]
    return {"out": words[0], "op": words[2], "in": inputs, "given": given, "if": condition,
            "at": context.where(node), "source": context.line(node)}  # fmt: skip


@shaped({"type": "string"})
def _head(node: yaml.Node, context: Context) -> dict[str, Any]:
    """Read a part's first line: its name, the tensors that it takes, and the numbers."""
    name, *words = text(node, context).split()
    takes = [word for word in words if "=" not in word]
    return {"name": name, "takes": takes, "numbers": [word.split("=")[0] for word in words if "=" in word]}


@shaped({"type": "string"})
def _stage(node: yaml.Node, context: Context) -> dict[str, Any]:
    """Read one stage of a shape: `block*repeat name=number…`."""
    first, *words = text(node, context).split()
    name, _, repeat = first.partition("*")
    pairs = [word.partition("=") for word in words]
    if (repeat and not repeat.isdigit()) or not all(value.isdigit() for _, _, value in pairs):
        context.fail(node, "expected `block*repeat name=number…`, as in same*3 mid=64 out=256")
    return {"block": name, "repeat": repeat or "1", "dims": {key: int(value) for key, _, value in pairs}}


@shaped({"type": ["string", "integer", "boolean"]})
def _either(node: yaml.Node, context: Context) -> Any:
    """Read a flag, a whole number or a product."""
    return flag(node, context) if node.value in ("true", "false") else _product(node, context)


_cites = many(text, 1)
_part = record({"part": _head, "cite": _cites, "lines": many(_line, 1)}, located=True)
parts_file = record({"parts": many(_part, 1)})
_dim = record({}, {"key": text, "also": text, "default": _product})
_flag = record({}, {"key": text, "default": flag, "is": plain, "is_not": plain})
_choice = record({"accepts": mapping(text, text)}, {"key": text, "default": text})
_block = record(
    {"block": text, "lines": many(_line, 1)},
    {"repeat": _product, "takes": one_of("input", "x"), "gives": text, "checkpointed": flag, "head": flag,
     "widens": flag, "holds": many(text)},
    located=True,
)  # fmt: skip
_shape = record(
    {}, {"aliases": many(text), "dims": mapping(text, number), "flags": many(text), "choices": mapping(text, text),
         "stages": many(_stage, 1), "parameters": number, "cite": _cites, "length": number}, located=True,
)  # fmt: skip
family_file = record(
    {"family": text, "name": text, "model": text, "input": one_of("tokens", "images"), "cite": _cites,
     "blocks": many(_block, 1)},
    {"model_types": many(text), "dims": mapping(text, _dim), "derived": mapping(text, _product),
     "flags": mapping(text, _flag), "choices": mapping(text, _choice), "only": mapping(text, many(plain, 1)),
     "shapes": mapping(text, _shape), "length": _product, "positions": _product, "nested": text,
     "at_most": mapping(text, text),
     "defaults": mapping(text, mapping(text, _either)), "fixed": mapping(text, mapping(text, flag))},
    located=True,
)  # fmt: skip


# -- parts and programs --------------------------------------------------------------------------------------------


def _fail(entry: Mapping[str, Any], message: str) -> None:
    raise RuleFileError(message, entry["at"], entry.get("source", ""))


def _expanded(lines: Sequence[Mapping[str, Any]], parts: Mapping[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Return lines with every part replaced by its own lines, under names that nothing else has."""
    done: list[dict[str, Any]] = []
    for entry in lines:
        part = parts.get(entry["op"])
        if part is None:
            done.append(_plain_line(entry, parts))
            continue
        head = part["part"]
        if len(entry["in"]) != len(head["takes"]):
            _fail(entry, f"{head['name']} takes {len(head['takes'])} tensors: {', '.join(head['takes'])}")
        wrong = [key for key in entry["given"] if key not in head["numbers"]]
        if wrong:
            _fail(entry, f"{head['name']} takes no {wrong[0]}; {nearest(wrong[0], head['numbers'])}")
        names = dict(zip(head["takes"], entry["in"], strict=True))
        inner = []
        for index, own in enumerate(part["lines"]):
            out = entry["out"] if index == len(part["lines"]) - 1 else f"{entry['out']}.{own['out']}"
            unknown = [word for word in own["in"] if word not in names]
            if unknown:
                _fail(own, f"nothing before this line is called {unknown[0]!r}")
            given = {key: _put(value, entry["given"]) for key, value in own["given"].items()}
            inner.append(
                {**own, "out": out, "in": [names[word] for word in own["in"]], "given": given,
                 "if": "&".join(c for c in (entry["if"], own["if"]) if c) or None}
            )  # fmt: skip
            names[own["out"]] = out
        done += _expanded(inner, parts)
    return done


def _put(value: str, given: Mapping[str, str]) -> str:
    """Put what a part was given into a product of its numbers."""
    return _WORD.sub(lambda word: given.get(word[0], word[0]), value)


def _plain_line(entry: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    known = operations().get(entry["op"])
    if known is None:
        _fail(entry, f"unknown operation {entry['op']!r}; {nearest(entry['op'], [*operations(), *parts])}")
    tensors, further = known or (0, {})
    if len(entry["in"]) != tensors:
        _fail(entry, f"{entry['op']} takes {tensors} tensors, found {len(entry['in'])}")
    wrong = [key for key in entry["given"] if key not in further]
    if wrong:
        _fail(entry, f"{entry['op']} takes no {wrong[0]}; {nearest(wrong[0], further)}")
    numbers = {key: value for key, value in entry["given"].items() if further[key] is int}
    words = {key: value for key, value in entry["given"].items() if further[key] is str}
    return {"out": entry["out"], "op": entry["op"], "in": list(entry["in"]), "numbers": numbers, "words": words,
            "if": entry["if"], "at": entry["at"]}  # fmt: skip


def _conditions(entry: Mapping[str, Any]) -> list[str]:
    return [word.lstrip("!") for word in entry["if"].split("&")] if entry["if"] else []


def _program(block: Mapping[str, Any], parts: Mapping[str, Any], names: set[str], given: set[str],
             flags: set[str]) -> list[dict[str, Any]]:  # fmt: skip
    """Return a block's program, checked: every name is made once before it is used, and used."""
    lines = _expanded(block["lines"], parts)
    made, used = set(given), set(block.get("holds", ()))
    for entry in lines:
        for word in entry["in"]:
            if word not in made:
                _fail(entry, f"nothing before this line is called {word!r}; {nearest(word, made)}")
        if entry["out"] in made and entry["out"] != "x":
            _fail(entry, f"{entry['out']!r} is made twice")
        for word in _conditions(entry):
            if word not in flags:
                _fail(entry, f"no flag is called {word!r}; {nearest(word, flags)}")
        for value in entry["numbers"].values():
            for word in re.split(r"[*/]", value):
                if not word.isdigit() and word not in names:
                    _fail(entry, f"no dimension is called {word!r}; {nearest(word, names)}")
        made.add(entry["out"])
        used |= set(entry["in"])
    idle = [entry for entry in lines[:-1] if entry["out"] not in used]
    if idle:
        _fail(idle[0], f"{idle[0]['out']!r} is never used")
    return [{key: value for key, value in entry.items() if key != "at"} for entry in lines]


SWITCHES = {"eager", "selective", "chunked", "masked"}  # flags that the run sets, not the configuration


def _checked(family: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    shapes = family.get("shapes", {})
    own = {name for shape in shapes.values() for stage in shape.get("stages", ()) for name in stage["dims"]}
    names = {*family.get("dims", {}), *family.get("derived", {}), *family.get("flags", {}), *own}
    chosen = {word for choice in family.get("choices", {}).values() for word in choice["accepts"].values()}
    known = {word for part in parts.values() for entry in part["lines"] for word in _conditions(entry)}
    flags = {*family.get("flags", {}), *chosen, *known, *SWITCHES}
    given: set[str] = set()
    for block in family["blocks"]:
        start = {block.get("takes", "x"), *given}
        block["lines"] = _program(block, parts, names, start, flags)
        given |= {block["gives"]} if "gives" in block else set()
    blocks = {block["block"]: _named(block) for block in family["blocks"]}
    for shape in shapes.values():
        for stage in shape.get("stages", ()):
            if stage["block"] not in blocks:
                _fail(shape, f"no block is called {stage['block']!r}; {nearest(stage['block'], blocks)}")
            asked = blocks[stage["block"]] - (names - own)
            for word in sorted(asked ^ set(stage["dims"])):
                what = "needs" if word in asked else "does not ask for"
                _fail(shape, f"a stage of {stage['block']!r} {what} {word}=number")
    return family


def _named(block: Mapping[str, Any]) -> set[str]:
    """Return the dimensions that a block's lines ask for."""
    numbers = (value for line in block["lines"] for value in line["numbers"].values())
    return {word for value in numbers for word in re.split(r"[*/]", value) if not word.isdigit()}


def _read(shape: Shape, file: Path, content: bytes) -> dict[str, Any]:
    try:
        words = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RuleFileError("is not UTF-8 text", str(file)) from error
    node, context = parse(words, str(file))
    found: dict[str, Any] = shape(node, context)
    return found


def read_networks(contents: Sequence[tuple[Path, bytes]]) -> dict[str, Any]:
    """Return every family by its id, programs written out, from the files of a `networks/` folder.

    Args:
        contents: Files and what they hold; the one called `parts.yaml` holds what families share.

    Raises:
        RuleFileError: A file is invalid; the message says where.
    """
    parts: dict[str, Any] = {}
    for file, content in contents:
        if file.stem == PARTS:
            parts.update({part["part"]["name"]: part for part in _read(parts_file, file, content)["parts"]})
    families: dict[str, Any] = {}
    for file, content in contents:
        if file.stem in (PARTS, SOURCES):
            continue
        family = _checked(_read(family_file, file, content), parts)
        if family["family"] in families:
            raise RuleFileError(f"family {family['family']!r} is there twice", family["at"])
        families[family["family"]] = family
    return families
