"""Plots of benchmarks and memory breakdowns: contents, files, and errors before anything is computed."""

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


def is_complete(file: Path) -> bool:
    content = file.read_bytes()
    if file.suffix == ".png":
        with Image.open(file) as picture:
            picture.load()
            assert min(picture.info["dpi"]) >= 149.9
            page = picture.convert("RGB")
            assert page.getpixel((0, page.height // 2)) == (255, 255, 255)
            assert len(page.getcolors(1 << 20) or ()) > 20  # not an empty page
    return content.startswith(STARTS[file.suffix[1:]])


# -- contents ------------------------------------------------------------------------------------------------------


def point(memory: float, speed: float) -> Point:
    return Point(f"{memory}/{speed}", memory, Figure(speed))


places = st.builds(point, st.integers(0, 9).map(float), st.integers(1, 9).map(float))


@given(st.lists(places, min_size=1, max_size=12), st.sampled_from([1.0, -1.0]))
def test_the_pareto_front_has_the_undominated_points(points: list[Point], better: float) -> None:
    def beats(one: Point, other: Point) -> bool:
        gain = better * (one.speed.value - other.speed.value)
        return one.memory <= other.memory and gain >= 0 and (one.memory < other.memory or gain > 0)

    result = front(points, better)
    expected = {(p.memory, p.speed.value) for p in points if not any(beats(other, p) for other in points)}
    assert {(p.memory, p.speed.value) for p in result} == expected
    assert [p.memory for p in result] == sorted({p.memory for p in result})


@given(st.lists(places, min_size=1, max_size=12))
def test_no_point_hides_another(points: list[Point]) -> None:
    xs = _apart(points)
    for (a, x), (b, y) in combinations(zip(points, xs, strict=True), 2):
        assert x != y or a.memory != b.memory


def test_state_is_drawn_if_the_peak_is_that_of_the_process() -> None:
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


def test_lines_differ_in_color_dashes_and_marker() -> None:
    styles = [figures.line_style(number) for number in range(11)]
    assert len({style["marker"] for style in styles}) == 11
    assert len({style["color"] for style in styles[:9]}) == 9
    for one, other in combinations(range(9), 2):
        alike = apart(figures.COLOURS[one], figures.COLOURS[other]) <= 25
        assert not alike or styles[one]["linestyle"] != styles[other]["linestyle"]


def apart(one: str, other: str) -> float:
    """Return the distance of two colors for a deuteranope (Machado, Oliveira and Fernandes 2009)."""
    rows = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))

    def seen(colour: str) -> list[float]:
        rgb = [int(part, 16) for part in re.findall("..", colour[1:])]
        return [sum(weight * value for weight, value in zip(row, rgb, strict=True)) for row in rows]

    return math.dist(seen(one), seen(other))


# -- the commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_comparison_is_drawn_in_addition_to_json(ending: str, tmp_path: Path) -> None:
    base, new = saved(tmp_path, "base.json", result()), saved(tmp_path, "new.json", result(1.5, state=400))
    plain = optadvise("compare", base, new, "--json", "-")
    file = tmp_path / f"delta.{ending}"
    drawn = optadvise("compare", base, new, "--json", "-", "--plot", str(file))
    assert (drawn.code, drawn.out) == (0, plain.out)
    jsonschema.validate(json.loads(drawn.out), SCHEMAS["comparison"])
    assert is_complete(file)


def test_equal_results_produce_equal_plots(tmp_path: Path) -> None:
    base = saved(tmp_path, "base.json", result())
    for name in ("one.svg", "two.svg"):
        optadvise("compare", base, base, "--plot", str(tmp_path / name))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_failed_arms_are_left_out(tmp_path: Path) -> None:
    broken = result()
    broken["arms"][0] |= {"status": "oom", "error": "out of memory"}
    base = saved(tmp_path, "base.json", result())
    compared = optadvise("compare", base, saved(tmp_path, "new.json", broken), "--plot", str(tmp_path / "delta.png"))
    assert compared.code == 0
    assert is_complete(tmp_path / "delta.png")


def test_a_plot_without_data_is_an_error(tmp_path: Path) -> None:
    broken: dict[str, Any] = result()
    for arm in broken["arms"]:
        arm |= {"status": "error", "error": "broke"}
    file = saved(tmp_path, "broken.json", broken)
    compared = optadvise("compare", file, file, "--plot", str(tmp_path / "delta.png"))
    assert (compared.code, compared.error) == (4, "nothing-measured")
    assert compared.failure is not None
    assert compared.failure.option == "--plot"
    assert not (tmp_path / "delta.png").exists()
    gate = optadvise("compare", file, file, "--require", "state_bytes <= 1x", "--plot", str(tmp_path / "delta.png"))
    assert gate.code == 1  # a failed requirement takes precedence
    assert "nothing to draw" in gate.err


def test_a_benchmark_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    benched = optadvise("bench", "sgd", "--control", "none", "--optimizer-only", "--params", "100K", "--rounds", "3",
                     "--steps", "1", "--plot", "cost.png", "--json", "cost.json")  # fmt: skip
    assert benched.code == 0, benched.err
    assert is_complete(tmp_path / "cost.png")
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
def test_a_breakdown_is_drawn_in_addition_to_json(arguments: str, tmp_path: Path) -> None:
    plain = optadvise("estimate", *arguments.split(), "--json")
    drawn = optadvise("estimate", *arguments.split(), "--json", "--plot", str(tmp_path / "memory.png"))
    assert (drawn.code, drawn.out) == (plain.code, plain.out) == (0, plain.out)
    assert is_complete(tmp_path / "memory.png")


COMMANDS = [
    ["bench", "sgd", "--plot"],
    ["compare", "a.json", "b.json", "--plot"],
    ["estimate", "--params", "1B", "--plot"],
    ["schedule", "wsd", "--plot"],
    ["trajectories", "--plot"],
    ["rules", "graph", "--plot"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_an_unusable_plot_file_is_an_error_before_any_output(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    invalid = {
        "cost.doc": "wrong-file-type", "cost": "wrong-file-type", "nowhere/cost.png": "file-not-writable",
        "folder.png": "file-not-writable",
    }  # fmt: skip
    for name, error in invalid.items():
        failed = optadvise(*command, name)
        assert (failed.code, failed.out, len(failed.err.splitlines())) == (2, "", 1), name
        assert failed.failure is not None
        assert (failed.error, failed.failure.option) == (error, "--plot")
        assert Path(str(failed.failure.value)).name == Path(name).name
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    failed = optadvise(*command, "cost.png")
    assert (failed.code, failed.out, len(failed.err.splitlines()), failed.error) == (4, "", 1, "missing-package")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]


def test_lines_keep_their_colors_in_a_reduced_palette(tmp_path: Path) -> None:
    figure = figures.make_figure(4, 3)
    axes = figure.add_subplot()
    axes.imshow([[0.0, 0.4], [0.6, 1.0]], interpolation="bilinear", cmap="viridis", extent=(0, 9, 0, 9))
    for number, colour in enumerate(figures.COLOURS):
        axes.axhline(number + 0.5, color=colour, linewidth=4)
    figures.save_figure(figure, tmp_path / "lines.png")
    with Image.open(tmp_path / "lines.png") as picture:
        page = picture.convert("RGB")
        pixels = [page.getpixel((column, row)) for row in range(page.height) for column in (page.width // 2,)]
    for colour in figures.COLOURS:
        assert min(math.dist(bytes.fromhex(colour[1:]), pixel) for pixel in pixels if isinstance(pixel, tuple)) < 10
