"""Pictures of measurements and ledgers: what is drawn, that files are whole, and what happens where they cannot be."""

from __future__ import annotations

import json
import math
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from optadvise.benchmark.records import Figure
from optadvise.render.plots import figures
from optadvise.render.plots.measurements import Axes, Point, _apart, axes_of, front
from tests.cli import optadvise
from tests.results import SCHEMAS, loaded, result, saved

STARTS = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF"}


def whole(file: Path) -> bool:
    content = file.read_bytes()
    if file.suffix == ".png":
        with Image.open(file) as picture:
            picture.load()
            assert min(picture.info["dpi"]) >= 149.9
            page = picture.convert("RGB")
            assert page.getpixel((0, page.height // 2)) == (255, 255, 255)
            assert len(page.getcolors(1 << 20) or ()) > 20  # not an empty page
    return content.startswith(STARTS[file.suffix[1:]])


# -- what is drawn -------------------------------------------------------------------------------------------------


def point(memory: float, speed: float) -> Point:
    return Point(f"{memory}/{speed}", memory, Figure(speed))


places = st.builds(point, st.integers(0, 9).map(float), st.integers(1, 9).map(float))


@given(st.lists(places, min_size=1, max_size=12), st.sampled_from([1.0, -1.0]))
def test_the_front_is_what_no_other_beats(points: list[Point], better: float) -> None:
    def beats(one: Point, other: Point) -> bool:
        gain = better * (one.speed.value - other.speed.value)
        return one.memory <= other.memory and gain >= 0 and (one.memory < other.memory or gain > 0)

    found = front(points, better)
    wanted = {(p.memory, p.speed.value) for p in points if not any(beats(other, p) for other in points)}
    assert {(p.memory, p.speed.value) for p in found} == wanted
    assert [p.memory for p in found] == sorted({p.memory for p in found})


@given(st.lists(places, min_size=1, max_size=12))
def test_none_hides_another(points: list[Point]) -> None:
    xs = _apart(points)
    for (a, x), (b, y) in combinations(zip(points, xs, strict=True), 2):
        assert x != y or a.memory != b.memory


def test_state_is_drawn_where_the_peak_is_the_processs() -> None:
    measured = result()
    arms = loaded(measured).arms
    assert axes_of(list(arms)) == Axes("state_bytes", "throughput", "samples/s")
    for arm in measured["arms"]:
        arm["peak_memory_bytes"]["allocated"] = 2**30
        arm["throughput"] = {"value": None, "unit": "samples/s", "ci95": None}
    arms = loaded(measured).arms
    assert axes_of(list(arms)) == Axes("peak_memory", "step_seconds", "samples/s")
    assert axes_of(list(arms), alone=True) == Axes("peak_memory", "optimizer_seconds", "samples/s")
    assert axes_of([]) is None


def test_the_first_lines_differ_in_colour_dashes_and_mark_together() -> None:
    styles = [figures.line_style(number) for number in range(11)]
    assert len({style["marker"] for style in styles}) == 11
    assert len({style["color"] for style in styles[:9]}) == 9
    for one, other in combinations(range(9), 2):
        alike = apart(figures.COLOURS[one], figures.COLOURS[other]) <= 25
        assert not alike or styles[one]["linestyle"] != styles[other]["linestyle"]


def apart(one: str, other: str) -> float:
    """How far two colours are apart for a deuteranope (Machado, Oliveira and Fernandes 2009)."""
    rows = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))

    def seen(colour: str) -> list[float]:
        rgb = [int(part, 16) for part in re.findall("..", colour[1:])]
        return [sum(weight * value for weight, value in zip(row, rgb, strict=True)) for row in rows]

    return math.dist(seen(one), seen(other))


# -- the commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_comparison_is_drawn_beside_what_it_says(ending: str, tmp_path: Path) -> None:
    base, new = saved(tmp_path, "base.json", result()), saved(tmp_path, "new.json", result(1.5, state=400))
    plain = optadvise("compare", base, new, "--json", "-")
    file = tmp_path / f"delta.{ending}"
    drawn = optadvise("compare", base, new, "--json", "-", "--plot", str(file))
    assert (drawn.code, drawn.out) == (0, plain.out)
    jsonschema.validate(json.loads(drawn.out), SCHEMAS["comparison"])
    assert whole(file)


def test_the_same_figures_give_the_same_picture(tmp_path: Path) -> None:
    base = saved(tmp_path, "base.json", result())
    for name in ("one.svg", "two.svg"):
        optadvise("compare", base, base, "--plot", str(tmp_path / name))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_arms_that_did_not_run_leave_the_others_drawn(tmp_path: Path) -> None:
    broken = result()
    broken["arms"][0] |= {"status": "oom", "error": "out of memory"}
    base = saved(tmp_path, "base.json", result())
    said = optadvise("compare", base, saved(tmp_path, "new.json", broken), "--plot", str(tmp_path / "delta.png"))
    assert said.code == 0
    assert whole(tmp_path / "delta.png")


def test_nothing_to_draw_is_told(tmp_path: Path) -> None:
    broken: dict[str, Any] = result()
    for arm in broken["arms"]:
        arm |= {"status": "error", "error": "broke"}
    file = saved(tmp_path, "broken.json", broken)
    said = optadvise("compare", file, file, "--plot", str(tmp_path / "delta.png"))
    assert said.code == 4
    assert "nothing to draw" in said.err.splitlines()[-1]
    assert not (tmp_path / "delta.png").exists()
    gate = optadvise("compare", file, file, "--require", "state_bytes <= 1x", "--plot", str(tmp_path / "delta.png"))
    assert gate.code == 1  # what a check said counts for more
    assert "nothing to draw" in gate.err


def test_a_measurement_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = optadvise("bench", "sgd", "--control", "none", "--optimizer-only", "--params", "100K", "--rounds", "3",
                     "--steps", "1", "--plot", "cost.png", "--json", "cost.json")  # fmt: skip
    assert said.code == 0, said.err
    assert whole(tmp_path / "cost.png")
    jsonschema.validate(json.loads((tmp_path / "cost.json").read_text(encoding="utf-8")), SCHEMAS["bench"])


@pytest.mark.parametrize(
    "arguments",
    [
        "--params 7B --gpu 4090",
        "--params 7B --gpu 4090 --all",
        "--arch resnet50 --vram 8GB --all",
        "--params 1B",
    ],
)
def test_a_ledger_is_drawn_beside_what_it_says(arguments: str, tmp_path: Path) -> None:
    plain = optadvise("estimate", *arguments.split(), "--json")
    said = optadvise("estimate", *arguments.split(), "--json", "--plot", str(tmp_path / "memory.png"))
    assert (said.code, said.out) == (plain.code, plain.out) == (0, plain.out)
    assert whole(tmp_path / "memory.png")


COMMANDS = [
    ["bench", "sgd", "--plot"],
    ["compare", "a.json", "b.json", "--plot"],
    ["estimate", "--params", "1B", "--plot"],
    ["schedule", "wsd", "--out"],
    ["trajectories", "--out"],
    ["rules", "graph", "--out"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_what_cannot_be_drawn_is_one_line_before_anything_is_computed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    wrong = {"cost.doc": "png", "cost": "png", "nowhere/cost.png": "no folder", "folder.png": "is a folder"}
    for name, words in wrong.items():
        said = optadvise(*command, name)
        assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), name
        assert words in said.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = optadvise(*command, "cost.png")
    assert (said.code, said.out, len(said.err.splitlines())) == (4, "", 1)
    assert "pip install 'optadvise[plot]'" in said.err
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]


def test_lines_keep_their_colours_in_a_picture_of_few(tmp_path: Path) -> None:
    made = figures.make_figure(4, 3)
    axes = made.add_subplot()
    axes.imshow([[0.0, 0.4], [0.6, 1.0]], interpolation="bilinear", cmap="viridis", extent=(0, 9, 0, 9))
    for number, colour in enumerate(figures.COLOURS):
        axes.axhline(number + 0.5, color=colour, linewidth=4)
    figures.save_figure(made, tmp_path / "lines.png")
    with Image.open(tmp_path / "lines.png") as picture:
        page = picture.convert("RGB")
        found = [page.getpixel((column, row)) for row in range(page.height) for column in (page.width // 2,)]
    for colour in figures.COLOURS:
        assert min(math.dist(bytes.fromhex(colour[1:]), pixel) for pixel in found if isinstance(pixel, tuple)) < 10
