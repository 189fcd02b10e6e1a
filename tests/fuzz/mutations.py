"""Mutations of documents: of bytes, and of values at any place of JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import yaml

_CHANGES = [1, 1, 1, 2, 3]
_DEEP = 100_000  # levels of nesting, more than Python's limit of recursion

# Valid and hostile values; those of the type of the old value are preferred.
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 0.5, -0.0, 1e308, -1e308, 5e-324, 10**18, 2**63, 2**64, 10**400, float("nan"),
    float("inf"), float("-inf"), "", " ", "a", "0", "nan", "adamw", "lion", "torch.optim.AdamW", "os.system",
    "json.tool.main", "1e5", "7B", "a\nb", "a\rb", "\0", "\x1b[31mred\x1b[0m", "\x1b]8;;http://b\x07a",
    "\u202eevil\u202c", "\u2028", "\ud800", "\udcff", "😀", "é" * 300, "x" * 100_000, "=1+1", "+1", "@a", "|a|",
    "[a](http://b)", "`a`", "<script>alert(1)</script>", "{{7*7}}", "'''", '"""', "\\", "%s", "../../a", "/dev/zero",
    "- a: b", "!!python/name:os", [], {}, [[]], {"": {}}, [None], [1, 2], ["a"], [1.0], {"a": 1}, {"id": "x"},
    [[["x"]]], [0] * 1000,
]  # fmt: skip
_KEYS = ["", "x", "kind", "a\x1b[1m", "é", "\ud800"]
_SPLICES: list[bytes] = [
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1b[31m", b"\r", b"\n", b"\t", b"{", b"}", b"[", b"]",
    b",", b":", b'"', b"-", b"&a ", b"*a", b"!!python/object/apply:os.system [ls]", b"<<: *a", b"---\n", b"...\n",
    b"? ", b"| ", b"NaN", b"1e999", b"9" * 5000, b"[" * _DEEP, b'{"a":' * _DEEP, b"\\ud800", b"\\u0000", b"#",
    b"%YAML 9.9\n", b"a" * 100_000,
]  # fmt: skip
_Path = tuple[Any, ...]


def mutate(rng: Random, document: Any) -> Any:
    """Return a document with one to three changes, most of which keep the types of the values."""
    for _ in range(rng.choice(_CHANGES)):
        path = _choose_path(rng, document)
        kind = rng.randrange(16)
        if kind == 0:
            document = _remove(document, path)
        elif kind == 1:
            document = _rename(document, path, rng.choice(_KEYS))
        elif kind == 2:
            document = _change(document, path, lambda value: [value])
        elif kind == 3:
            document = _change(document, path, _double)
        elif kind == 4:
            document = _change(document, path, str)
        else:
            document = _change(document, path, partial(_choose_value, rng, is_like=kind < 13))
    return document


def _choose_path(rng: Random, document: Any) -> _Path:
    """Return the path of a value: down from the document, with an equal chance for each entry of a level."""
    path: _Path = ()
    while isinstance(document, (dict, list)) and document and rng.randrange(5):
        key = rng.choice(list(document)) if isinstance(document, dict) else rng.randrange(len(document))
        path, document = (*path, key), document[key]
    return path


def _choose_value(rng: Random, old: Any, *, is_like: bool) -> Any:
    """Return a value, of the type of the old one if possible, so that the file keeps its schema."""
    alike = [value for value in _VALUES if _find_kind(value) is _find_kind(old)]
    return rng.choice(alike if is_like and alike else _VALUES)


def _find_kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def _change(document: Any, path: _Path, edit: Callable[[Any], Any]) -> Any:
    """Return a document in which the value at a path is replaced; nothing is changed in place."""
    if not path:
        return edit(document)
    copied = dict(document) if isinstance(document, dict) else list(document)
    copied[path[0]] = _change(document[path[0]], path[1:], edit)
    return copied


def _remove(document: Any, path: _Path) -> Any:
    """Return a document without the value at a path."""

    def drop(parent: Any) -> Any:
        kept = dict(parent) if isinstance(parent, dict) else list(parent)
        del kept[path[-1]]
        return kept

    return _change(document, path[:-1], drop) if path else {}


def _rename(document: Any, path: _Path, name: str) -> Any:
    """Return a document in which a key has another name."""

    def move(parent: Any) -> Any:
        if not isinstance(parent, dict):
            return parent
        return {(name if key == path[-1] else key): value for key, value in parent.items()}

    return _change(document, path[:-1], move) if path else document


def _double(value: Any) -> Any:
    """Return a list or text twice as long, and a number of another sign and size."""
    if isinstance(value, (list, str)):
        return value * 2
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return -value * 1000
    return [value, value]


def to_json(document: Any) -> bytes:
    """Return JSON; invalid numbers and characters stay, as other programs write them."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", errors="surrogatepass")


def to_yaml(document: Any) -> bytes:
    """Return YAML; JSON where YAML cannot express it."""
    try:
        return yaml.safe_dump(document, allow_unicode=True, sort_keys=False).encode("utf-8", errors="surrogatepass")
    except (yaml.YAMLError, ValueError):
        return to_json(document)


def damage(rng: Random, content: bytes) -> bytes:
    """Return the bytes of a file with one to three changes."""
    for _ in range(rng.choice(_CHANGES)):
        start = rng.randint(0, len(content))
        kind = rng.randrange(12)
        if kind == 0:
            content = content[:start]
        elif kind <= 2:
            content = content[:start] + content[rng.randint(start, len(content)) :]
        elif kind <= 4:
            content = content[:start] + content[start : start + rng.randint(1, 200)] + content[start:]
        elif kind <= 7:
            content = content[:start] + bytes([rng.randrange(256)]) + content[start + 1 :]
        elif kind == 8:
            text = content.decode(errors="replace")
            content = rng.choice([b"", b"\n", b"null", b"[]", b"{}", b"1", b'"a"', b"\0" * 100, content[::-1],
                                  text.encode("utf-16"), content * 3, b"\xff" * 10])  # fmt: skip
        else:
            content = content[:start] + rng.choice(_SPLICES) + content[start:]
    return content


def make_file(rng: Random, documents: Sequence[Any], encode: Callable[[Any], bytes]) -> bytes:
    """Return a file with changed values, or in a quarter of the cases with changed bytes."""
    document = rng.choice(documents)
    return encode(mutate(rng, document)) if rng.randrange(4) else damage(rng, encode(document))
