"""Command lines of all commands, from the options that the command line declares."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import typer

from optadvise.cli import spellings
from optadvise.cli.app import build
from tests.fuzz.cases import Case
from tests.fuzz.documents import BASE_FILES

# Options that take minutes, or that change the shell's configuration.
_EXCLUDED = {"--mutants", "--install-completion", "--show-completion"}
_OPTION_COUNTS = [0, 1, 1, 2, 2, 2, 3, 3, 4, 6]
_EVERYWHERE = ["--help", "-h", "--debug", "--version", "--man", "--nope", "--lr", "--", "-x"]

COUNTS = ["1", "2", "8", "16", "32", "128", "512", "1024", "4096", "32768", "7B", "124M", "70B", "8K", "1.5K", "1e3",
          "10**6", "1_000"]  # fmt: skip
_SIZES = ["8GB", "24GB", "24", "80GiB", "800MB", "1TB", "24 GB", "auto", "512KB", "24gb"]
_FRACTIONS = ["1e-3", "0.1", "1", "5", "60", "3%", "0.5%", "1e6", "1e-30"]
_NEW = ["new.json", "new.html", "new.csv", "new.md", "new.yaml", "new.txt"]
_FILES = [*BASE_FILES, *_NEW, "folder", "missing/new.json"]
# Files that parameters read; the others write files.
_INPUTS = {"rules": ["team-rules"], "base": ["result.json"], "new": ["other.json", "team-rules"],
           "file": ["sweep.yaml"],
           "hf_config": ["config.json"], "from_": ["recommendation.json"], "old": ["-", "team-rules"]}  # fmt: skip
_PICTURES = ["new.png", "new.svg", "new.pdf", "new.gif"]  # drawing takes a second
_TEXTS = ["adamw", "lion", "AdamW_8bit", "sgd", "muon", "cosine", "wsd", "saddle", "transformer", "OPT060", "lr-scale",
          "llama-3.1-8b", "resnet50", "rtx 4090", "h100", "q,v", "all", "json", "yaml", "markdown", "python", "hf",
          "state_bytes <= 1x", "optimizer_seconds <= 1.05x", "step_seconds<3ms", "torch.optim.AdamW", "fused",
          "json.tool:main", "lion=foreach", "8xH100", "2x rtx 4090"]  # fmt: skip
_NUMBERS = ["0", "-1", "-0", "1e400", "-1e400", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "1e-400", "0.0000001",
            "1/3", "0x10", "１２", "٣", "1,000", "1.", ".5", "+5", "5 ", " 5", "1e", "7BB", "7 B", "1e308B", "999999T",
            "4294967296", "18446744073709551616"]  # fmt: skip
_HOSTILE = ["", " ", "\t", "\n", "-", "--", "--json", "-1", "a\nb", "a\rb", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07",
            "\u202eevil\u202c", "\u2028", "\u200b", "\ufeff", "\x7f", "\x85", "é" * 300, "a" * 5000, "\udcff", "😀",
            "=cmd()", "|a|b|", "[a](http://b)", "<script>", "{{7*7}}", "%s%n", "'", '"', "\\", "$(id)", "None", "null",
            "true", "[]", "{}", "..", ".", "*", "~", "/dev/null", "/dev/full", "/dev/zero", "/dev/stdin", "/proc/nope",
            "/proc/self/mem", "folder/..", "result.json/new.json", "n" * 300 + ".json"]  # fmt: skip
# Ranges of the characters of random text; without the separator of folders, so that no file outside is written.
_CHARACTERS = [(0x20, 0x2E), (0x30, 0x7D), (0x20, 0x2E), (0x30, 0x7D), (0x1, 0x1F), (0x80, 0x2FF),
               (0x2000, 0x206F), (0x1, 0xFFFF), (0x1F300, 0x1FAFF)]  # fmt: skip


@functools.cache
def commands() -> Mapping[tuple[str, ...], Sequence[Any]]:
    """Return the parameters of every command by its words."""
    return dict(_list_commands((), typer.main.get_command(build())))


def _list_commands(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Sequence[Any]]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, [parameter for parameter in command.params if not _EXCLUDED & {*parameter.opts}]
        return
    for name, child in children.items():
        yield from _list_commands((*words, name), child)


def _make_value(rng: Random, words: tuple[str, ...], parameter: Any) -> str:
    """Return a value of a parameter: mostly a plausible one."""
    kind = rng.randrange(40)
    if kind == 0:
        return rng.choice(_NUMBERS)
    if kind == 1:
        return rng.choice(_HOSTILE)
    if kind == 2:
        return "".join(chr(rng.randint(*rng.choice(_CHARACTERS))) for _ in range(rng.randrange(12)))
    if kind == 3:
        return rng.choice(_TEXTS)
    value = rng.choice(_list_plausible(words, parameter.name))
    return _respell(value) if kind == 4 else value


@functools.cache
def _list_plausible(words: tuple[str, ...], name: str) -> Sequence[str]:
    """Return values that a parameter accepts, most of them."""
    parameter = next(one for one in commands()[words] if one.name == name)
    metavar, is_path = parameter.metavar or "", "Path" in repr(parameter.type)
    if name in _INPUTS:
        return [*_INPUTS[name] * 20, *_FILES]
    if metavar.startswith("[") and "|" in metavar:
        return metavar.strip("[]").split("|")
    if is_path or metavar in ("[FILE]", "FILE", "DIR"):
        return [*_NEW * 5, *_FILES, *_PICTURES]
    if metavar == "SIZE":
        return _SIZES
    if metavar == "N":
        return [*COUNTS, *_FRACTIONS]
    if parameter.type.name in ("float", "integer", "float range"):
        return [*_FRACTIONS, "7", "42"]
    return _complete(parameter) or _TEXTS


def _complete(parameter: Any) -> list[str]:
    """Return the values that the shell offers."""
    complete = getattr(parameter, "_custom_shell_complete", None)
    offers = [] if complete is None else complete(None, parameter, "")
    return [one if isinstance(one, str) else one.value for one in offers]


def _respell(value: str) -> str:
    """Return a value as another person types it."""
    return value.replace("-", "_").upper() if len(value) % 2 else f" {value.title()}"


def make_line(rng: Random) -> Case:
    """Return a command with options in any order and spelling, with the files that it names."""
    words = rng.choice(list(commands()))
    options = [one for one in commands()[words] if one.opts[0].startswith("-")]
    groups = [
        [_make_value(rng, words, one) for _ in range(rng.randint(1, 3) if one.nargs < 0 else 1)]
        for one in commands()[words]
        if one not in options and rng.randrange(10) < (5 if one.nargs < 0 else 9)
    ]
    chosen = rng.sample(options, min(len(options), rng.choice(_OPTION_COUNTS)))
    groups += [_spell_option(rng, words, one) for one in chosen + (chosen[:1] if rng.randrange(10) == 0 else [])]
    if rng.randrange(20) == 0:
        groups.append([rng.choice(_EVERYWHERE)])
    if rng.randrange(4) == 0:
        groups.append(["--json"])
    rng.shuffle(groups)
    arguments = tuple(word.replace("\0", "") for word in (*words, *(word for group in groups for word in group)))
    return Case(arguments=arguments, files=find_files(arguments), stdin=rng.choice(_STDIN))


_STDIN = [b"", b"", b"\n\n\n", b"24GB\n7B\n", BASE_FILES["recommendation.json"], b"no\x1b[3m\n?\n", b"q", b"\xff\n"]


def _spell_option(rng: Random, words: tuple[str, ...], option: Any) -> list[str]:
    """Return an option with its value, in one of its spellings."""
    aliases = spellings._ALIASES.get(" ".join(words), {})
    flags = [*option.opts, *(alias for alias, names in aliases.items() if names[0] in option.opts)]
    flag = rng.choice([*[flags[0]] * 4, *flags])
    style = rng.randrange(40)
    if style == 0:
        flag = flag.upper()
    elif style == 1:
        flag = flag[:2] + flag[2:].replace("-", "_")
    elif style == 2:
        flag = flag[:-1]
    if option.is_flag:
        return [flag, *(["true"] if style == 3 else [])]
    if style == 4:
        return [flag]
    value = _make_value(rng, words, option)
    return [f"{flag}={value}"] if style in (5, 6) else [flag, value]


def find_files(arguments: Sequence[str]) -> dict[str, bytes]:
    """Return the prepared files that a command line names, and their folders."""
    words = {part for word in arguments for part in re.split(r"[=/]", word)}
    return {name: content for name, content in BASE_FILES.items() if name.split("/")[0] in words} | {"folder/a": b"a"}
