"""Write the types of the library's keyword arguments from the options that they are: python -m tests.option_types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import get_args, get_type_hints

from msgspec import structs

from optadvise.benchmark.options import BenchOptions, Option
from optadvise.rulebase.catalog import load
from optadvise.rulebase.records import Fact, RunInput

FILE = Path(__file__).parent.parent / "optadvise" / "core" / "option_types.py"
_WIDTH = 120
_HEAD = '''\
"""Types of the library's keyword arguments. Written by `python -m tests.option_types`; do not edit."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict

Count = str | int | float  # 256, 7e9, "7B", "8K"
Folders = str | PathLike[str] | Sequence[str | PathLike[str]]
'''
_RUN_TYPES = {"number": "Count", "bytes": "str | int", "flag": "bool", "text": "str", "file": "str | PathLike[str]"}
_LISTS = ("lora_targets",)  # texts that may be a list, too


def generate() -> str:
    """Return the module's source."""
    run = (line for option in load().options for line in _format_run_option(option))
    bench = (line for name, declared in _bench_options() for line in _format_bench_option(name, declared))
    return "\n".join([
        _HEAD,
        *_format_class("Run", "A training run: the options of `optadvise recommend` and `optadvise estimate`.", run),
        "    # Folders of further rules.",
        "    rules: Folders",
        "",
        *_format_class("Measurement", "Options of `optadvise bench`.", bench),
        "",
    ])  # fmt: skip


def _format_class(name: str, about: str, fields: Iterable[str]) -> Iterator[str]:
    yield from ("", f"class {name}(TypedDict, total=False):", f'    """{about}"""', "", *fields)


def _format_run_option(option: Fact | RunInput) -> Iterator[str]:
    if isinstance(option, Fact) and option.values is not None and option.type == "choice":
        kind = f"Literal[{', '.join(map(_quote, option.values))}]"
    else:
        kind = _RUN_TYPES[option.type] + (" | Sequence[str]" if option.name in _LISTS else "")
    yield from _format_field(option.name, f"{kind} | None", option.help)


def _bench_options() -> Iterator[tuple[str, Option]]:
    hints = get_type_hints(BenchOptions, include_extras=True)
    for field in structs.fields(BenchOptions):
        yield field.name, get_args(hints[field.name])[1]


def _format_bench_option(name: str, declared: Option) -> Iterator[str]:
    kind = get_type_hints(BenchOptions)[name]
    if declared.is_count:
        text = "Count"
    elif declared.choices and not declared.is_open:
        text = f"Literal[{', '.join(map(_quote, declared.choices))}]"
    elif kind == tuple[str, ...]:
        text = "Sequence[str]"
    else:
        text = "str" if kind == str | None else kind.__name__
    yield from _format_field(name, text, declared.help)


def _format_field(name: str, kind: str, about: str) -> Iterator[str]:
    yield from (f"    # {line}" for line in wrap(about, _WIDTH - 6))
    yield f"    {name}: {kind}"


def _quote(value: str) -> str:
    return f'"{value}"'


if __name__ == "__main__":
    FILE.write_text(generate(), encoding="utf-8")
