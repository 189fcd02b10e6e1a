"""`optadvise trajectories`: installed optimizers on surfaces of two weights."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from PIL import Image

from optadvise.render.plots.surfaces import list_frames
from optadvise.rulebase.catalog import Catalog
from optadvise.verify import trajectories
from tests.cli import optadvise
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "docs" / "schema" / "trajectories.json").read_text(encoding="utf-8"))


def data(*arguments: str) -> dict[str, Any]:
    said = optadvise("trajectories", *arguments, "--json", "-")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    jsonschema.validate(found, SCHEMA)
    return found


def by_hand(x: float, y: float, steps: int, *, lr: float, momentum: float = 0.0, nesterov: bool = False) -> list[Any]:
    """Descent on x² − y², as the papers write it."""
    points, vx, vy = [(x, y)], 0.0, 0.0
    for _ in range(steps):
        gx, gy = 2 * x, -2 * y
        vx, vy = momentum * vx + gx, momentum * vy + gy
        dx, dy = (gx + momentum * vx, gy + momentum * vy) if nesterov else (vx, vy)
        x, y = x - lr * dx, y - lr * dy
        points.append((x, y))
    return points


def test_descent_takes_the_steps_that_one_writes_by_hand() -> None:
    kinds: dict[str, dict[str, Any]] = {
        "sgd": {}, "sgd-momentum": {"momentum": 0.9}, "sgd-nesterov": {"momentum": 0.9, "nesterov": True},
    }  # fmt: skip
    found = data(*kinds)
    for walk in found["walks"]:
        wanted = by_hand(0.7, 0.01, len(walk["points"]) - 1, lr=0.01, **kinds[walk["id"]])
        for (x, y, value), (wx, wy) in zip(walk["points"], wanted, strict=True):
            assert (x, y) == pytest.approx((wx, wy), rel=1e-4, abs=1e-6)
            assert value == pytest.approx(x**2 - y**2, abs=1e-9)


def test_sign_descent_moves_both_weights_by_the_rate() -> None:
    (walk,) = data("lion", "--steps", "5")["walks"]
    assert [point[0] for point in walk["points"]] == pytest.approx([0.7 - n * walk["lr"] for n in range(6)], abs=1e-6)


def test_nine_of_the_installed_walk_with_the_guides_rates() -> None:
    found = data()
    assert (found["surface"]["start"], found["steps"], found["left_out"]) == ([0.7, 0.01], 150, [])
    rates = {walk["id"]: walk["lr"] for walk in found["walks"]}
    guide = {"sgd": 0.01, "sgd-momentum": 0.01, "sgd-nesterov": 0.01, "adagrad": 0.5, "adadelta": 10.0,
             "rmsprop": 0.01, "adamw": 0.05}  # fmt: skip
    assert len(rates) == 9
    assert guide.items() <= rates.items()
    assert rates["lion"] == 0.01  # a fifth of Adam's
    assert all(walk["because"] and walk["cite"] for walk in found["walks"])
    steps = {walk["id"]: walk["reached"] for walk in found["walks"]}
    assert steps["sgd"] is None  # "momentum-based methods escape the saddle faster than vanilla SGD"
    assert steps["sgd-momentum"] is not None


def test_the_same_walk_twice_is_the_same() -> None:
    assert data("adamw", "lion", "--surface", "beale") == data("adamw", "lion", "--surface", "beale")


def test_arriving_and_leaving_are_told() -> None:
    for walk in data("adamw", "sgd", "nadam")["walks"]:
        values = [point[2] for point in walk["points"]]
        first = next((n for n, value in enumerate(values) if value <= -0.25), None)
        assert walk["reached"] == first
        inside = [max(abs(x), abs(y)) <= 1.5 for x, y, _ in walk["points"]]
        assert all(inside[:-1])
        assert walk["end"] == ("steps" if inside[-1] else "outside")


def test_a_path_that_diverges_is_cut_and_told() -> None:
    (far,) = data("sgd", "--surface", "rosenbrock", "--lr", "0.1")["walks"]
    assert (far["end"], far["because"], len(far["points"])) == ("outside", "as said by --lr", 2)
    (none,) = data("sgd-momentum", "--surface", "beale", "--lr", "1e6", "--steps", "9")["walks"]
    assert none["end"] in ("outside", "not-finite")
    assert all(math.isfinite(number) for point in none["points"] for number in point)
    assert "0.1      1" in optadvise("trajectories", "sgd", "--surface", "rosenbrock", "--lr", "0.1").out


def test_a_last_step_is_cut_at_the_edge(catalog: Catalog) -> None:
    surface = catalog.surfaces["saddle"]
    result = trajectories.compute_trajectories(surface, [catalog.optimizer("adagrad")], 150)
    last = trajectories.clip_points(result.trajectories[0], result.surface)[-1]
    value = trajectories.find_function(surface)(torch.tensor(last.x), torch.tensor(last.y))
    assert last.value == pytest.approx(float(value), rel=1e-5)
    assert last.y == pytest.approx(1.5)
    assert abs(last.x) <= 1.5


def test_none_is_dropped_without_a_word(catalog: Catalog) -> None:
    found = data(*catalog.optimizer_ids, "--steps", "3")
    told = [entry["id"] for entry in found["walks"] + found["left_out"]]
    assert sorted(told) == catalog.optimizer_ids
    assert len(found["walks"]) >= 8
    reasons = {entry["id"]: entry["because"] for entry in found["left_out"]}
    assert "matrices" in reasons["muon"]
    assert "CUDA" in reasons["paged-adamw8bit"]
    assert "matrices" in optadvise("trajectories", "sgd", "muon", "--steps", "1").out


def test_where_none_can_walk_the_exit_code_is_4() -> None:
    said = optadvise("trajectories", "muon")
    assert (said.code, len(said.err.splitlines())) == (4, 1)


@pytest.mark.parametrize("name", ["rosenbrock", "beale", "rastrigin"])
def test_a_minimum_is_one(name: str, catalog: Catalog) -> None:
    surface = catalog.surfaces[name]
    assert surface.minimum is not None
    at = torch.tensor(surface.minimum, dtype=torch.float64, requires_grad=True)
    value = trajectories.FUNCTIONS[name](at[0], at[1])
    value.backward()
    assert at.grad is not None
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert at.grad.tolist() == pytest.approx([0, 0], abs=1e-9)


def test_a_formula_is_the_function(catalog: Catalog) -> None:
    for surface in catalog.surfaces.values():
        text = surface.formula.partition(" = ")[2]
        for found, python in (("xy", "x*y"), ("cos 2πx", "cos(2*pi*x)"), ("cos 2πy", "cos(2*pi*y)"), ("·", "*"),
                              ("−", "-"), ("²", "**2"), ("³", "**3")):  # fmt: skip
            text = text.replace(found, python)
        for x, y in ((0.3, -0.7), (1.2, 0.4)):
            wanted = eval(text, {"x": x, "y": y, "cos": math.cos, "pi": math.pi})
            assert float(trajectories.FUNCTIONS[surface.id](torch.tensor(x), torch.tensor(y))) == pytest.approx(
                wanted, rel=1e-5
            )


def test_a_rate_follows_class_family_and_card(catalog: Catalog) -> None:
    surface = catalog.surfaces["saddle"]
    assert trajectories.choose_lr(surface, catalog.optimizer("adan")).lr == 0.05
    rate = trajectories.choose_lr(surface, catalog.optimizer("lion8bit"))
    assert (rate.lr, "full length" in rate.because, len(rate.cite)) == (0.01, True, 2)
    assert trajectories.choose_lr(surface, catalog.optimizer("prodigy")).lr == 1.0  # its card's own


def test_a_layer_sets_its_own_start_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    text = (ROOT / "rules" / "surfaces.yaml").read_text(encoding="utf-8")
    (tmp_path / "surfaces.yaml").write_text(text.replace("start: [0.7, 0.01] ", "start: [0.5, 0.2] "), encoding="utf-8")
    assert data("sgd", "--steps", "2", "--rules", str(tmp_path))["walks"][0]["points"][0][:2] == pytest.approx(
        [0.5, 0.2]
    )
    for before, after in (("start: [0.7, 0.01]", "start: [7, 0.01]"), ("steps: 150", "steps: 1.5"),
                          ("start: [0.7, 0.01]", "start: [0.7]"), ("sgd: {lr: 0.01,", "sgd: {times: 1, lr: 0.01,"),
                          ("factor: 0.2", "factor: 0")):  # fmt: skip
        (tmp_path / "surfaces.yaml").write_text(text.replace(before, after), encoding="utf-8")
        said = optadvise("trajectories", "sgd", "--rules", str(tmp_path))
        assert (said.code, len(said.err.splitlines())) == (3, 1), after
        assert "surfaces.yaml:" in said.err


def test_a_surface_without_a_function_is_told(tmp_path: Path) -> None:
    text = (ROOT / "rules" / "surfaces.yaml").read_text(encoding="utf-8")
    (tmp_path / "surfaces.yaml").write_text(text.replace("id: saddle", "id: sadle"), encoding="utf-8")
    said = optadvise("trajectories", "sgd", "--surface", "sadle", "--rules", str(tmp_path))
    assert (said.code, len(said.err.splitlines())) == (3, 1)
    assert "did you mean 'saddle'" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("adamv", "did you mean"),
        ("--surface sadle", "did you mean 'saddle'"),
        ("--steps 0", "--steps"),
        ("--steps 20K", "--steps"),
        ("--lr 0", "--lr"),
        ("--out walk.gif", "png, svg, pdf"),
        ("--animate walk.png", "animations are gif"),
        ("--json nowhere/walk.json", "there is no folder"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: str, words: str) -> None:
    said = optadvise("trajectories", *arguments.split())
    assert (said.code, len(said.err.splitlines()), said.out) == (2, 1, "")
    assert words in said.err


def test_the_text_keeps_to_80_columns_on_every_surface(catalog: Catalog) -> None:
    for name in catalog.surfaces:
        said = optadvise(
            "trajectories", "schedule-free-adamw", "sgd-nesterov", "muon", "--surface", name, "--steps", "40"
        )
        assert said.code == 0
        assert max(map(len, said.out.splitlines())) <= 80
        row = next(line for line in said.out.splitlines() if line.startswith("  sgd-nesterov "))
        assert row.endswith(("–", "out")) or row.split()[-1].isdigit()


# -- pictures ------------------------------------------------------------------------------------------------------


def test_a_picture_an_animation_and_json_at_once(tmp_path: Path) -> None:
    files = {flag: tmp_path / name for flag, name in (("--out", "w.png"), ("--animate", "w.gif"), ("--json", "w.json"))}
    flags = [word for flag, file in files.items() for word in (flag, str(file))]
    said = optadvise("trajectories", "sgd", "adamw", "--steps", "4", *flags)
    assert said.code == 0
    assert said.out.startswith("Saddle")
    with Image.open(files["--out"]) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 1500
        assert min(picture.info["dpi"]) >= 149.9
    with Image.open(files["--animate"]) as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == ("GIF", 5)
    jsonschema.validate(json.loads(files["--json"].read_text(encoding="utf-8")), SCHEMA)


def test_an_animation_shows_the_first_and_the_last_step() -> None:
    assert list_frames(4) == [0, 1, 2, 3, 4]
    assert list_frames(0) == [0]
    long = list_frames(1000)
    assert (long[0], long[-1], len(long), long) == (0, 1000, 48, sorted(set(long)))


def test_a_tall_surface_is_drawn_too(tmp_path: Path) -> None:
    said = optadvise(
        "trajectories", "adamw", "--surface", "rosenbrock", "--steps", "5", "--out", str(tmp_path / "w.svg")
    )
    assert said.code == 0
    assert (tmp_path / "w.svg").read_bytes().startswith(b"<?xml")


def test_without_matplotlib_there_is_text_and_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert optadvise("trajectories", "sgd", "--steps", "2").code == 0
    for flag, name in (("--out", "w.png"), ("--animate", "w.gif")):
        said = optadvise("trajectories", "sgd", flag, str(tmp_path / name))
        assert (said.code, len(said.err.splitlines())) == (4, 1)
        assert "pip install 'optadvise[plot]'" in said.err
    assert not list(tmp_path.iterdir())


def test_no_optimizer_leaves_every_picture_at_once(catalog: Catalog) -> None:
    """A rate that throws its optimizer out with the first step is no rate to show it at."""
    cards = [catalog.optimizer(name) for name in catalog.optimizer_ids]
    for surface in catalog.surfaces.values():
        result = trajectories.compute_trajectories(surface, cards, 3)
        assert not [each.optimizer for each in result.trajectories if each.end != "steps" and len(each.points) < 4], (
            surface.id
        )
