"""Text of the project, and the wordings that it must not have: python -m tests.language [TEXT IN PATH].

The wordings are in `tests/language_terms.yaml`.
"""

from __future__ import annotations

import ast
import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import msgspec
import typer
import yaml

from optadvise.cli.app import build
from tests.conftest import ROOT
from tests.source import Module, read_modules

TERMS_FILE = Path(__file__).parent / "language_terms.yaml"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{name}" for name in ("*.md", "measurements/*.md")))
# Keys of rule files whose values are other people's words, formulas, names or code.
FOREIGN_KEYS = {"quote", "title", "authors", "equation", "aliases", "import", "url", "pattern", "where", "text_of"}
IDENTIFIER = re.compile(r"[a-z_0-9][\w./:*-]*")  # a key, an id or a path: no prose
COMMENT = re.compile(r"(?:^\s*|  )# (.*)$")
QUOTE = re.compile(r"“[^”]*”")
LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


class Text(NamedTuple):
    """A piece of text and its place, `file:line`."""

    file: str
    line: int
    text: str


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A wording to avoid.

    Attributes:
        pattern: Regular expression in lower case.
        use: What to write instead.
        unless: Regular expression of phrases in which the wording is accepted.
    """

    pattern: str
    use: str
    unless: str = ""


class Hit(NamedTuple):
    """A wording to avoid in a text, and the characters around it."""

    text: Text
    match: str
    use: str
    context: str

    def __str__(self) -> str:
        """Return one line: place, wording, replacement and context."""
        return f"{self.text.file}:{self.text.line}: {self.match!r}; use {self.use!r}: … {self.context} …"


@cache
def read_terms() -> list[tuple[re.Pattern[str], Term]]:
    """Return the terms with their compiled patterns."""
    terms = msgspec.convert(yaml.load(TERMS_FILE.read_text("utf-8"), yaml.CSafeLoader), list[Term])
    return [(re.compile(term.pattern, re.MULTILINE), term) for term in terms]


def find_hits(texts: Sequence[Text]) -> list[Hit]:
    """Return every wording to avoid in texts, in their order."""
    pieces = [QUOTE.sub("“”", " ".join(text.text.split())) for text in texts]
    starts = [0, *accumulate(len(piece) + 1 for piece in pieces)]
    joined = "\n".join(pieces)
    lowered = joined.translate(LOWER)  # faster than patterns that ignore case, and as long
    hits = []
    for pattern, term in read_terms():
        for match in pattern.finditer(lowered):
            number = bisect_right(starts, match.start()) - 1
            begin, end = max(starts[number], match.start() - 40), min(starts[number + 1] - 1, match.end() + 40)
            context = joined[begin:end]
            if not (term.unless and re.search(term.unless, lowered[begin:end])):
                hits.append((number, Hit(texts[number], joined[match.start() : match.end()], term.use, context)))
    return [hit for _, hit in sorted(hits, key=lambda item: item[0])]


@cache
def read_package() -> tuple[Module, ...]:
    """Return the modules of the package."""
    return read_modules(ROOT)


@cache
def collect_texts() -> tuple[Text, ...]:
    """Return all text of rule files, the package (docstrings and comments included), templates, documents and help."""
    code = (*_read_strings(), *_read_comments(), *_read_templates())
    texts = (*_read_rules(), *code, *_read_documents(), *_read_help())
    return tuple(text for text in texts if not IDENTIFIER.fullmatch(text.text))


def _read_rules() -> Iterator[Text]:
    for file in _list_files("rules", "yaml"):
        name = file.relative_to(ROOT).as_posix()
        node = yaml.compose(file.read_text("utf-8"), yaml.CSafeLoader)
        yield from _read_node(name, node)


def _read_node(name: str, node: yaml.Node | None) -> Iterator[Text]:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:str":
            yield Text(name, node.start_mark.line + 1, node.value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _read_node(name, item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value not in FOREIGN_KEYS:
                yield from _read_node(name, value)


def _read_strings() -> Iterator[Text]:
    """Yield each string literal, docstrings included; an f-string is one text, with {} for its values."""
    for module in read_package():
        skipped: set[int] = set()  # ids of nodes that are parts of f-strings
        for node in ast.walk(module.tree):
            if isinstance(node, ast.JoinedStr):
                skipped.update(id(part) for part in node.values)
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                yield Text(f"optadvise/{module.path}", node.lineno, text)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield Text(f"optadvise/{module.path}", node.lineno, node.value)


def _read_comments() -> Iterator[Text]:
    files = [
        file for folder, ending in (("optadvise", "py"), ("rules", "yaml")) for file in _list_files(folder, ending)
    ]
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            match = COMMENT.search(line)
            if match:
                yield Text(name, number, match[1])


def _list_files(folder: str, ending: str) -> list[Path]:
    return sorted((ROOT / folder).rglob(f"*.{ending}"))


def _read_templates() -> Iterator[Text]:
    for file in (*_list_files("optadvise", "jinja"), *_list_files("optadvise", "html")):
        text = re.sub(r"(?s)\{[{%#].*?[}%#]\}", lambda match: "\n" * match[0].count("\n"), file.read_text("utf-8"))
        name = file.relative_to(ROOT).as_posix()
        yield from (Text(name, number, line) for number, line in enumerate(text.splitlines(), 1))


def _read_documents() -> Iterator[Text]:
    for file in (file for pattern in DOCUMENTS for file in sorted(ROOT.glob(pattern))):
        text = re.sub(r"(?ms)^```.*?^```$", lambda match: "\n" * match[0].count("\n"), file.read_text("utf-8"))
        text = re.sub(r"`[^`\n]*`", "``", text)
        text = re.sub(r"(?m)^- .*<https?://\S+>$", "", text)  # titles of publications
        text = re.sub(r"\*\*[A-Z]{3}\d+\*\* [\w-]+|[a-z]+(_[a-z]+)+", "", text)  # ids, names and keys of rules
        name, number = file.relative_to(ROOT).as_posix(), 1
        for paragraph in re.split(r"(\n\s*\n|\n(?=[-|#] ?))", text):
            yield Text(name, number + (len(paragraph) - len(paragraph.lstrip("\n"))), " ".join(paragraph.split()))
            number += paragraph.count("\n")


def _read_help() -> Iterator[Text]:
    """Yield the help of each command and option."""
    commands = [("optadvise", typer.main.get_command(build()))]
    while commands:
        path, command = commands.pop()
        context = command.make_context(path, [], resilient_parsing=True)
        yield Text(f"{path} --help", 0, command.help or "")
        for parameter in command.params:
            yield Text(f"{path} --help", 0, str(getattr(parameter, "help", "") or ""))
        names: list[str] = getattr(command, "list_commands", lambda _: [])(context)
        commands += [(f"{path} {name}", command.get_command(context, name)) for name in names]  # type: ignore[attr-defined]


def main() -> None:
    """Print each hit, and their number by file."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    hits = [hit for hit in find_hits(collect_texts()) if chosen in hit.text.file]
    for hit in hits:
        print(hit)
    for name, count in Counter(hit.text.file for hit in hits).most_common():
        print(f"{count:5} {name}")


if __name__ == "__main__":
    main()
