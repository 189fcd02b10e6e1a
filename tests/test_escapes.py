"""Foreign text in Markdown, where GitHub makes links of references, and in CSV, where spreadsheets compute formulas."""

from __future__ import annotations

import csv

import pytest
from msgspec.structs import replace

from optadvise.benchmark.records import BenchmarkResult
from optadvise.core.markdown import escape_markdown, format_table
from optadvise.render.benchmark_files import encode_csv
from tests.results import loaded
from tests.results import result as result_data

COMMENT = "<!-- -->"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("owner/repo#1", ["owner/repo#", "1"]),
        ("#12", ["#", "12"]),
        ("GH-12", ["GH-", "12"]),
        ("gh-12", ["gh-", "12"]),
        ("@name", ["@", "name"]),
        ("a@b.com", ["a@", "b.com"]),
        ("mailto:a@-b.com", ["mailto:a@", "-b.com"]),
        ("https://evil.example", ["https:", "//evil.example"]),
        ("www.evil.example", ["www", ".evil.example"]),
        ("_www.evil.example", ["\\_www", ".evil.example"]),
        ("WWW.evil.example", ["WWW", ".evil.example"]),
        ("0123abc", ["0123ab", "c"]),
        ("owner/repo@0123abc", ["owner/repo@", "0123ab", "c"]),
        ("_0123ABC_", ["\\_0123AB", "C\\_"]),
        (SHA, [SHA[start : start + 6] for start in range(0, 40, 6)]),
    ],
)
def test_references_are_broken(text: str, parts: list[str]) -> None:
    assert escape_markdown(text) == COMMENT.join(parts)
    assert COMMENT.join(parts) in format_table(["label"], [[f"see {text}"]])[-1]


@pytest.mark.parametrize(
    "text", ["adamw8bit", "lr = 1e-3 @ 100 steps", "facade", "12,345,678 B", "1234567", "snake_case", "C # 1", "a#b"]
)
def test_other_text_is_unchanged(text: str) -> None:
    assert escape_markdown(text) == text


def label(text: str) -> BenchmarkResult:
    """Return a result whose first arm has a label."""
    result = loaded(result_data())
    first, *others = result.arms
    return replace(result, arms=(replace(first, label=text), *others))


@pytest.mark.parametrize("start", [*"=+-@＝＋－＠﹦−", " =", "\u00a0=", "\u3000＝", " \t +", "\t", "\r", "\n", "\t1"])
def test_cells_of_csv_are_no_formulas(start: str) -> None:
    text = encode_csv(label(f"{start}SUM(1)"))
    assert [*csv.reader(text.splitlines(keepends=True))][1][1] == f"'{start}SUM(1)".replace("\r", " ")


@pytest.mark.parametrize("text", ["lion", "a=b", "", " lion", "１"])
def test_other_cells_of_csv_are_unchanged(text: str) -> None:
    assert [*csv.reader(encode_csv(label(text)).splitlines())][1][1] == text
