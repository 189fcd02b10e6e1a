"""`optadvise schedule`: rates in words, as a table, as a curve in the terminal, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.schedule_choice import find_default_warmup
from optadvise.core import schedules
from optadvise.core.units import show_number
from optadvise.render.text.terminal_plot import ASCII_MARKS, MARKS, Axis, Line, draw_plot, has_braille
from tests.cli import optadvise
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "docs" / "schema" / "schedule.json").read_text(encoding="utf-8"))


def data(*arguments: str) -> list[dict[str, Any]]:
    said = optadvise("schedule", *arguments, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    jsonschema.validate(found, SCHEMA)
    entries: list[dict[str, Any]] = found["schedules"]
    return entries


def test_the_rates_are_those_of_the_arithmetic(rules: CompiledRules) -> None:
    first, *others = rules.catalog.scheduler_ids
    flags = [word for name in others for word in ("--compare", name)]
    for entry in data(first, *flags, "--steps", "5K", "--warmup", "4%", "--lr", "0.02"):
        advice = schedules.resolve_schedule(rules.catalog.scheduler(entry["id"]), 0.02, 5000, 0.04, {})
        assert (entry["import"], entry["kwargs"]) == (advice.path, advice.kwargs)
        steps = [step for step, _ in entry["points"]]
        assert (steps[0], steps[-1], steps) == (0, 4999, sorted(set(steps)))
        assert [rate for _, rate in entry["points"]] == [schedules.compute_lr(advice, 0.02, step) for step in steps]


def test_warmup_and_cosine_are_what_one_writes_by_hand() -> None:
    (entry,) = data("warmup-cosine", "--steps", "1000", "--warmup", "100", "--lr", "1e-2")
    assert entry["warmup_steps"] == 100
    for step, rate in entry["points"]:
        ramp = 0.01 + 0.99 * step / 100
        fall = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 100) / 900)) / 2
        assert rate == pytest.approx(1e-2 * (ramp if step < 100 else fall), rel=1e-9)


def test_steps_and_percent_are_the_same_warmup_and_zero_is_the_least() -> None:
    assert data("wsd", "--steps", "2000", "--warmup", "60") == data("wsd", "--steps", "2000", "--warmup", "3%")
    assert data("wsd", "--warmup", "0")[0]["warmup_steps"] <= 1


def test_the_warmup_is_the_rules_where_nobody_said(rules: CompiledRules) -> None:
    rule = find_default_warmup(rules, rules.catalog.scheduler("one-cycle"))
    assert data("one-cycle", "--steps", "1000")[0]["warmup_steps"] == float(str(rule.number.value)) * 1000
    assert f"({rule.id}: " in " ".join(optadvise("schedule", "one-cycle").out.split())


def test_the_table_has_the_rates_at_the_quarters() -> None:
    said = optadvise("schedule", "linear", "--steps", "1001", "--lr", "0.1")
    (row,) = [line for line in said.out.splitlines() if line.strip().startswith("linear  ")]
    assert row.split()[1:] == [
        show_number(float(f"{0.1 * (1 - n / 1001):.3g}")) for n in (0, 100, 250, 500, 750, 900, 1000)
    ]


def test_a_schedule_named_twice_is_shown_once() -> None:
    assert [entry["id"] for entry in data("wsd", "--compare", "WSD", "--compare", "trapezoidal")] == ["wsd"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("warmup-cosin", "did you mean"),
        ("wsd --compare nothing", "--compare"),
        ("wsd --steps 0", "--steps"),
        ("wsd --steps 2e12", "--steps"),
        ("wsd --warmup 100%", "--warmup"),
        ("wsd --warmup 1e5", "--warmup"),
        ("wsd --warmup nan%", "--warmup"),
        ("wsd --warmup soon", "--warmup"),
        ("wsd --warmup=-3%", "--warmup"),
        ("constant --warmup 3%", "has none"),
        ("wsd --lr 0", "--lr"),
        ("wsd --lr nan", "--lr"),
        ("wsd --out lr.doc", "png, svg, pdf"),
        ("wsd --out nowhere/lr.png", "there is no folder"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: str, words: str) -> None:
    said = optadvise("schedule", *arguments.split())
    assert (said.code, len(said.err.splitlines()), said.out) == (2, 1, "")
    assert words in said.err


@pytest.mark.parametrize("name", ["warmup-cosine", "inverse-sqrt", "one-cycle", "step", "constant", "wsd"])
def test_short_runs_have_a_curve_too(name: str) -> None:
    for steps in ("1", "2", "3", "7"):
        said = optadvise("schedule", name, "--steps", steps)
        assert said.code == 0 or "too short" in said.err


# -- the terminal --------------------------------------------------------------------------------------------------


def test_an_ascii_terminal_gets_ascii_within_80_columns(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optadvise", "schedule", "warmup-cosine", "--compare", "wsd", "--compare", "step"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path, env=environment)
    lines = done.stdout.decode("ascii").splitlines()
    assert max(map(len, lines)) <= 80
    assert "?" not in done.stdout.decode()
    legend = lines[-1].split()
    assert legend == ["*", "warmup-cosine", "o", "wsd", "+", "step"]
    curves = "\n".join(line.partition("|")[2] for line in lines)
    assert all(mark in curves for mark in "*o+")


def test_all_schedules_beside_each_other_keep_to_80_columns(rules: CompiledRules) -> None:
    first, *others = rules.catalog.scheduler_ids
    said = optadvise("schedule", first, *[word for name in others[:8] for word in ("--compare", name)])
    assert max(map(len, said.out.splitlines())) <= 80


def show(value: float) -> str:
    return f"{value:g}"


def test_a_line_alone_is_drawn_in_dots_and_in_ascii_in_stars() -> None:
    rise = Line("rise", [n / 99 for n in range(100)])
    for braille in (True, False):
        rows = draw_plot([rise], Axis("step", 0, 100, show), Axis("rate", 0.0, 1.0, show), braille=braille)
        assert max(map(len, rows)) <= 80
        assert rows[0].strip() == "rate"
        body = [row for row in rows if set(row) & set("┤│|+")]
        firsts = [min(n for n, c in enumerate(row) if c == "*" or c > "\u2800") for row in body[:13]]
        assert firsts == sorted(firsts, reverse=True)  # the higher, the further to the right
        assert body[0].strip().startswith("1 ")
        assert body[12].strip().startswith("0 ")
        assert all(ord(c) < 128 for row in rows for c in row) is not braille


def test_lines_that_lie_on_each_other_are_all_seen() -> None:
    lines = [Line(name, [0.5, 0.5]) for name in "abc"]
    picture = "\n".join(draw_plot(lines, Axis("x", 0, 1, show), Axis("y", 0.0, 1.0, show), braille=False))
    (row,) = [line for line in picture.splitlines() if "*o+" in line]
    assert min(row.count(mark) for mark in "*o+") >= 25


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=30), min_size=1, max_size=9),
    st.booleans(),
    st.integers(40, 100),
)
def test_any_curves_keep_to_their_place(curves: list[list[float]], braille: bool, width: int) -> None:
    lines = [Line(f"line{n}", values) for n, values in enumerate(curves)]
    rows = draw_plot(lines, Axis("x", 0, 9, show), Axis("y", 0.0, 1.0, show), braille=braille, width=width)
    assert max(map(len, rows)) <= width
    if len(lines) > 1:
        legend = " ".join(rows)
        assert all(
            f"{mark} line{n}" in legend for n, mark in enumerate((MARKS if braille else ASCII_MARKS)[: len(lines)])
        )


def test_what_an_encoding_can_show() -> None:
    assert has_braille("utf-8")
    assert has_braille(None)
    assert not has_braille("ascii")
    assert not has_braille("latin-1")
    assert not has_braille("no-such")


# -- pictures ------------------------------------------------------------------------------------------------------


def test_a_picture_beside_the_text(tmp_path: Path) -> None:
    plain = optadvise("schedule", "wsd", "--compare", "cosine")
    for name, start in (("lr.png", b"\x89PNG"), ("lr.svg", b"<?xml"), ("lr.PDF", b"%PDF")):
        said = optadvise("schedule", "wsd", "--compare", "cosine", "--out", str(tmp_path / name))
        assert (said.code, said.out) == (0, plain.out)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_without_matplotlib_there_is_text_and_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert optadvise("schedule", "wsd").code == 0
    said = optadvise("schedule", "wsd", "--out", str(tmp_path / "lr.png"))
    assert (said.code, len(said.err.splitlines())) == (4, 1)
    assert "pip install 'optadvise[plot]'" in said.err
    assert not list(tmp_path.iterdir())
