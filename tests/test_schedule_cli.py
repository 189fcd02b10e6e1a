"""`optadvise schedule`: summary, table, terminal plot, JSON and plots."""

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


def read_schedules(*arguments: str) -> list[dict[str, Any]]:
    result = optadvise("schedule", *arguments, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    jsonschema.validate(document, SCHEMA)
    entries: list[dict[str, Any]] = document["schedules"]
    return entries


def test_points_equal_computed_learning_rates(rules: CompiledRules) -> None:
    first, *others = rules.catalog.scheduler_ids
    flags = [argument for name in others for argument in ("--compare", name)]
    for entry in read_schedules(first, *flags, "--steps", "5K", "--warmup", "4%", "--lr", "0.02"):
        advice = schedules.resolve_schedule(rules.catalog.scheduler(entry["id"]), 0.02, 5000, 0.04, {})
        assert (entry["import"], entry["kwargs"]) == (advice.path, advice.kwargs)
        steps = [step for step, _ in entry["points"]]
        assert (steps[0], steps[-1], steps) == (0, 4999, sorted(set(steps)))
        assert [lr for _, lr in entry["points"]] == [schedules.compute_lr(advice, 0.02, step) for step in steps]


def test_warmup_and_cosine_equal_a_direct_formula() -> None:
    (entry,) = read_schedules("warmup-cosine", "--steps", "1000", "--warmup", "100", "--lr", "1e-2")
    assert entry["warmup_steps"] == 100
    for step, lr in entry["points"]:
        ramp = 0.01 + 0.99 * step / 100
        fall = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 100) / 900)) / 2
        assert lr == pytest.approx(1e-2 * (ramp if step < 100 else fall), rel=1e-9)


def test_warmup_in_steps_equals_warmup_in_percent() -> None:
    assert read_schedules("wsd", "--steps", "2000", "--warmup", "60") == read_schedules(
        "wsd", "--steps", "2000", "--warmup", "3%"
    )
    assert read_schedules("wsd", "--warmup", "0")[0]["warmup_steps"] <= 1


def test_the_default_warmup_is_that_of_the_rules(rules: CompiledRules) -> None:
    rule = find_default_warmup(rules, rules.catalog.scheduler("one-cycle"))
    assert read_schedules("one-cycle", "--steps", "1000")[0]["warmup_steps"] == float(str(rule.number.value)) * 1000
    assert f"rule {rule.id}." in " ".join(optadvise("schedule", "one-cycle").out.split())


def test_the_table_has_the_learning_rates_at_percentages_of_the_run() -> None:
    result = optadvise("schedule", "linear", "--steps", "1001", "--lr", "0.1")
    (row,) = [line for line in result.out.splitlines() if line.strip().startswith("linear  ")]
    assert row.split()[1:] == [
        show_number(float(f"{0.1 * (1 - n / 1001):.3g}")) for n in (0, 100, 250, 500, 750, 900, 1000)
    ]


def test_a_repeated_schedule_is_printed_once() -> None:
    assert [entry["id"] for entry in read_schedules("wsd", "--compare", "WSD", "--compare", "trapezoidal")] == ["wsd"]


@pytest.mark.parametrize(
    ("arguments", "error", "option"),
    [
        ("warmup-cosin", "unknown-name", None),
        ("wsd --compare nothing", "unknown-name", "--compare"),
        ("wsd --steps 0", "out-of-range", "--steps"),
        ("wsd --steps 2e12", "out-of-range", "--steps"),
        ("wsd --warmup 100%", "out-of-range", "--warmup"),
        ("wsd --warmup 1e5", "out-of-range", "--warmup"),
        ("wsd --warmup nan%", "out-of-range", "--warmup"),
        ("wsd --warmup soon", "invalid-number", "--warmup"),
        ("wsd --warmup=-3%", "out-of-range", "--warmup"),
        ("constant --warmup 3%", "option-conflict", "--warmup"),
        ("wsd --lr 0", "out-of-range", "--lr"),
        ("wsd --lr nan", "out-of-range", "--lr"),
        ("wsd --plot lr.doc", "wrong-file-type", "--plot"),
        ("wsd --plot nowhere/lr.png", "file-not-writable", "--plot"),
    ],
)
def test_an_invalid_command_line_is_one_error(arguments: str, error: str, option: str | None) -> None:
    result = optadvise("schedule", *arguments.split())
    assert (result.code, len(result.err.splitlines()), result.out) == (2, 1, "")
    assert result.error == error
    assert option is None or (result.failure is not None and result.failure.option == option)


@pytest.mark.parametrize("name", ["warmup-cosine", "inverse-sqrt", "one-cycle", "step", "constant", "wsd"])
def test_short_runs_have_a_curve(name: str) -> None:
    for steps in ("1", "2", "3", "7"):
        result = optadvise("schedule", name, "--steps", steps)
        assert result.code == 0 or (result.error, result.failure and result.failure.option) == (
            "out-of-range",
            "--steps",
        )


# -- the terminal --------------------------------------------------------------------------------------------------


def test_an_ascii_terminal_gets_ascii_in_80_columns(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optadvise", "schedule", "warmup-cosine", "--compare", "wsd", "--compare", "step"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path, env=environment)
    lines = process.stdout.decode("ascii").splitlines()
    assert max(map(len, lines)) <= 80
    assert "?" not in process.stdout.decode()
    legend = lines[-1].split()
    assert legend == ["*", "warmup-cosine", "o", "wsd", "+", "step"]
    curves = "\n".join(line.partition("|")[2] for line in lines)
    assert all(mark in curves for mark in "*o+")


def test_a_comparison_of_all_schedules_has_at_most_80_columns(rules: CompiledRules) -> None:
    first, *others = rules.catalog.scheduler_ids
    result = optadvise("schedule", first, *[argument for name in others[:8] for argument in ("--compare", name)])
    assert max(map(len, result.out.splitlines())) <= 80


def format_number(value: float) -> str:
    return f"{value:g}"


def test_a_single_line_is_drawn_in_dots_and_in_ascii_in_stars() -> None:
    rise = Line("rise", [n / 99 for n in range(100)])
    for braille in (True, False):
        rows = draw_plot(
            [rise], Axis("step", 0, 100, format_number), Axis("rate", 0.0, 1.0, format_number), braille=braille
        )
        assert max(map(len, rows)) <= 80
        assert rows[0].strip() == "rate"
        body = [row for row in rows if set(row) & set("┤│|+")]
        firsts = [min(n for n, c in enumerate(row) if c == "*" or c > "\u2800") for row in body[:13]]
        assert firsts == sorted(firsts, reverse=True)  # the higher, the further to the right
        assert body[0].strip().startswith("1 ")
        assert body[12].strip().startswith("0 ")
        assert all(ord(c) < 128 for row in rows for c in row) is not braille


def test_overlapping_lines_are_all_visible() -> None:
    lines = [Line(name, [0.5, 0.5]) for name in "abc"]
    picture = "\n".join(
        draw_plot(lines, Axis("x", 0, 1, format_number), Axis("y", 0.0, 1.0, format_number), braille=False)
    )
    (row,) = [line for line in picture.splitlines() if "*o+" in line]
    assert min(row.count(mark) for mark in "*o+") >= 25


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=30), min_size=1, max_size=9),
    st.booleans(),
    st.integers(40, 100),
)
def test_curves_stay_within_the_width(curves: list[list[float]], braille: bool, width: int) -> None:
    lines = [Line(f"line{n}", values) for n, values in enumerate(curves)]
    rows = draw_plot(
        lines, Axis("x", 0, 9, format_number), Axis("y", 0.0, 1.0, format_number), braille=braille, width=width
    )
    assert max(map(len, rows)) <= width
    if len(lines) > 1:
        legend = " ".join(rows)
        assert all(
            f"{mark} line{n}" in legend for n, mark in enumerate((MARKS if braille else ASCII_MARKS)[: len(lines)])
        )


def test_encodings_with_braille() -> None:
    assert has_braille("utf-8")
    assert has_braille(None)
    assert not has_braille("ascii")
    assert not has_braille("latin-1")
    assert not has_braille("no-such")


# -- plots ---------------------------------------------------------------------------------------------------------


def test_a_plot_in_addition_to_text(tmp_path: Path) -> None:
    plain = optadvise("schedule", "wsd", "--compare", "cosine")
    for name, start in (("lr.png", b"\x89PNG"), ("lr.svg", b"<?xml"), ("lr.PDF", b"%PDF")):
        result = optadvise("schedule", "wsd", "--compare", "cosine", "--plot", str(tmp_path / name))
        assert (result.code, result.out) == (0, plain.out)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_without_matplotlib_text_works_and_a_plot_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert optadvise("schedule", "wsd").code == 0
    result = optadvise("schedule", "wsd", "--plot", str(tmp_path / "lr.png"))
    assert (result.code, len(result.err.splitlines()), result.error) == (4, 1, "missing-package")
    assert not list(tmp_path.iterdir())
