"""`optadvise trajectories`: installed optimizers on test functions of two weights."""

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
from tests.conftest import ROOT, by_turns

SCHEMA = json.loads((ROOT / "docs" / "schema" / "trajectories.json").read_text(encoding="utf-8"))


def run_json(*arguments: str) -> dict[str, Any]:
    result = optadvise("trajectories", *arguments, "--json", "-")
    assert result.code == 0, result.err
    data: dict[str, Any] = json.loads(result.out)
    jsonschema.validate(data, SCHEMA)
    return data


def descend(x: float, y: float, steps: int, *, lr: float, momentum: float = 0.0, nesterov: bool = False) -> list[Any]:
    """Gradient descent on x² − y²."""
    points, vx, vy = [(x, y)], 0.0, 0.0
    for _ in range(steps):
        gx, gy = 2 * x, -2 * y
        vx, vy = momentum * vx + gx, momentum * vy + gy
        dx, dy = (gx + momentum * vx, gy + momentum * vy) if nesterov else (vx, vy)
        x, y = x - lr * dx, y - lr * dy
        points.append((x, y))
    return points


def test_gradient_descent_equals_closed_form() -> None:
    kinds: dict[str, dict[str, Any]] = {
        "sgd": {}, "sgd-momentum": {"momentum": 0.9}, "sgd-nesterov": {"momentum": 0.9, "nesterov": True},
    }  # fmt: skip
    data = run_json(*kinds)
    for trajectory in data["walks"]:
        expected = descend(0.7, 0.01, len(trajectory["points"]) - 1, lr=0.01, **kinds[trajectory["id"]])
        for (x, y, value), point in zip(trajectory["points"], expected, strict=True):
            assert (x, y) == pytest.approx(point, rel=1e-4, abs=1e-6)
            assert value == pytest.approx(x**2 - y**2, abs=1e-9)


def test_sign_descent_moves_weights_by_the_learning_rate() -> None:
    (trajectory,) = run_json("lion", "--steps", "5")["walks"]
    expected = [0.7 - step * trajectory["lr"] for step in range(6)]
    assert [point[0] for point in trajectory["points"]] == pytest.approx(expected, abs=1e-6)


def test_default_optimizers_have_the_learning_rates_of_the_guide() -> None:
    data = run_json()
    assert (data["surface"]["start"], data["steps"], data["left_out"]) == ([0.7, 0.01], 150, [])
    learning_rates = {trajectory["id"]: trajectory["lr"] for trajectory in data["walks"]}
    guide = {"sgd": 0.01, "sgd-momentum": 0.01, "sgd-nesterov": 0.01, "adagrad": 0.5, "adadelta": 10.0,
             "rmsprop": 0.01, "adamw": 0.05}  # fmt: skip
    assert len(learning_rates) == 9
    assert guide.items() <= learning_rates.items()
    assert learning_rates["lion"] == 0.01  # 0.2 × Adam's
    assert all(trajectory["because"] and trajectory["cite"] for trajectory in data["walks"])
    steps = {trajectory["id"]: trajectory["reached"] for trajectory in data["walks"]}
    assert steps["sgd"] is None  # "momentum-based methods escape the saddle faster than vanilla SGD"
    assert steps["sgd-momentum"] is not None


def test_trajectories_are_reproducible() -> None:
    first, second = (run_json("adamw", "lion", "--surface", "beale", "--steps", "40") for _ in range(2))
    assert first == second


def test_goal_and_end() -> None:
    for trajectory in run_json("adamw", "sgd", "nadam")["walks"]:
        values = [point[2] for point in trajectory["points"]]
        first = next((n for n, value in enumerate(values) if value <= -0.25), None)
        assert trajectory["reached"] == first
        are_inside = [max(abs(x), abs(y)) <= 1.5 for x, y, _ in trajectory["points"]]
        assert all(are_inside[:-1])
        assert trajectory["end"] == ("steps" if are_inside[-1] else "outside")


def test_diverging_trajectory_is_cut() -> None:
    (outside,) = run_json("sgd", "--surface", "rosenbrock", "--lr", "0.1")["walks"]
    assert (outside["end"], outside["lr"], outside["cite"], len(outside["points"])) == ("outside", 0.1, [], 2)
    (diverged,) = run_json("sgd-momentum", "--surface", "beale", "--lr", "1e6", "--steps", "9")["walks"]
    assert diverged["end"] in ("outside", "not-finite")
    assert all(math.isfinite(number) for point in diverged["points"] for number in point)


def test_last_step_ends_at_the_border(catalog: Catalog) -> None:
    surface = catalog.surfaces["saddle"]
    result = trajectories.compute_trajectories(surface, [catalog.optimizer("adagrad")], 150)
    last = trajectories.clip_points(result.trajectories[0], result.surface)[-1]
    value = trajectories.find_function(surface)(torch.tensor(last.x), torch.tensor(last.y))
    assert last.value == pytest.approx(float(value), rel=1e-5)
    assert last.y == pytest.approx(1.5)
    assert abs(last.x) <= 1.5


def test_skipped_optimizers_have_a_reason(catalog: Catalog) -> None:
    data = run_json(*catalog.optimizer_ids, "--steps", "3")
    ids = [entry["id"] for entry in data["walks"] + data["left_out"]]
    assert sorted(ids) == catalog.optimizer_ids
    assert len(data["walks"]) >= 8
    reasons = {entry["id"]: entry["because"] for entry in data["left_out"]}
    assert "matrices" in reasons["muon"]
    assert "CUDA" in reasons["paged-adamw8bit"]
    assert "matrices" in optadvise("trajectories", "sgd", "muon", "--steps", "1").out


def test_no_usable_optimizer() -> None:
    result = optadvise("trajectories", "muon")
    assert (result.code, result.error, len(result.err.splitlines())) == (4, "nothing-measured", 1)


@pytest.mark.parametrize("name", ["rosenbrock", "beale", "rastrigin"])
def test_minimum_is_a_minimum(name: str, catalog: Catalog) -> None:
    surface = catalog.surfaces[name]
    assert surface.minimum is not None
    at = torch.tensor(surface.minimum, dtype=torch.float64, requires_grad=True)
    value = trajectories.FUNCTIONS[name](at[0], at[1])
    value.backward()
    assert at.grad is not None
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert at.grad.tolist() == pytest.approx([0, 0], abs=1e-9)


def test_formula_equals_function(catalog: Catalog) -> None:
    for surface in catalog.surfaces.values():
        text = surface.formula.partition(" = ")[2]
        for symbol, python in (("xy", "x*y"), ("cos 2πx", "cos(2*pi*x)"), ("cos 2πy", "cos(2*pi*y)"), ("·", "*"),
                              ("−", "-"), ("²", "**2"), ("³", "**3")):  # fmt: skip
            text = text.replace(symbol, python)
        for x, y in ((0.3, -0.7), (1.2, 0.4)):
            expected = eval(text, {"x": x, "y": y, "cos": math.cos, "pi": math.pi})
            assert float(trajectories.FUNCTIONS[surface.id](torch.tensor(x), torch.tensor(y))) == pytest.approx(
                expected, rel=1e-5
            )


def test_learning_rate_by_scale_family_and_optimizer(catalog: Catalog) -> None:
    surface = catalog.surfaces["saddle"]
    assert trajectories.choose_lr(surface, catalog.optimizer("adan")).lr == 0.05
    learning_rate = trajectories.choose_lr(surface, catalog.optimizer("lion8bit"))
    assert surface.families["sign"].because in learning_rate.because
    assert (learning_rate.lr, len(learning_rate.cite)) == (0.01, 2)
    assert trajectories.choose_lr(surface, catalog.optimizer("prodigy")).lr == 1.0  # default of the card


def test_rule_layer_changes_a_surface(tmp_path: Path) -> None:
    text = (ROOT / "rules" / "surfaces.yaml").read_text(encoding="utf-8")
    (tmp_path / "surfaces.yaml").write_text(text.replace("start: [0.7, 0.01] ", "start: [0.5, 0.2] "), encoding="utf-8")
    assert run_json("sgd", "--steps", "2", "--rules", str(tmp_path))["walks"][0]["points"][0][:2] == pytest.approx(
        [0.5, 0.2]
    )
    for before, after in (("start: [0.7, 0.01]", "start: [7, 0.01]"), ("steps: 150", "steps: 1.5"),
                          ("start: [0.7, 0.01]", "start: [0.7]"), ("sgd: {lr: 0.01,", "sgd: {times: 1, lr: 0.01,"),
                          ("factor: 0.2", "factor: 0")):  # fmt: skip
        (tmp_path / "surfaces.yaml").write_text(text.replace(before, after), encoding="utf-8")
        result = optadvise("trajectories", "sgd", "--rules", str(tmp_path))
        assert (result.code, len(result.err.splitlines())) == (3, 1), after
        assert result.failure is not None
        assert result.failure.where is not None
        assert "surfaces.yaml:" in result.failure.where


def test_surface_without_a_function(tmp_path: Path) -> None:
    text = (ROOT / "rules" / "surfaces.yaml").read_text(encoding="utf-8")
    (tmp_path / "surfaces.yaml").write_text(text.replace("id: saddle", "id: sadle"), encoding="utf-8")
    result = optadvise("trajectories", "sgd", "--surface", "sadle", "--rules", str(tmp_path))
    assert (result.code, result.error, len(result.err.splitlines())) == (3, "unknown-reference", 1)
    assert "'saddle'" in result.err  # the suggestion


@pytest.mark.parametrize(
    ("arguments", "code", "option"),
    [
        ("adamv", "unknown-name", None),
        ("--surface sadle", "unknown-name", "--surface"),
        ("--steps 0", "out-of-range", "--steps"),
        ("--steps 20K", "out-of-range", "--steps"),
        ("--lr 0", "out-of-range", "--lr"),
        ("--plot trajectory.gif", "wrong-file-type", "--plot"),
        ("--animate trajectory.png", "wrong-file-type", "--animate"),
        ("--json nowhere/trajectory.json", "file-not-writable", "--json"),
    ],
)
def test_invalid_command_line(arguments: str, code: str, option: str) -> None:
    result = optadvise("trajectories", *arguments.split())
    assert (result.code, len(result.err.splitlines()), result.out) == (2, 1, "")
    assert result.failure is not None
    assert (result.failure.code, result.failure.option) == (code, option)


def test_text_fits_80_columns(catalog: Catalog) -> None:
    for name in catalog.surfaces:
        result = optadvise(
            "trajectories", "schedule-free-adamw", "sgd-nesterov", "muon", "--surface", name, "--steps", "40"
        )
        assert result.code == 0
        assert max(map(len, result.out.splitlines())) <= 80
        row = next(line for line in result.out.splitlines() if line.startswith("  sgd-nesterov "))
        assert row.endswith(("–", "out")) or row.split()[-1].isdigit()


# -- plots ------------------------------------------------------------------------------------------------------


@by_turns(0, 2)
def test_plot_animation_and_json_together(tmp_path: Path) -> None:
    names = (("--plot", "w.png"), ("--animate", "w.gif"), ("--json", "w.json"))
    files = {option: tmp_path / name for option, name in names}
    options = [argument for option, file in files.items() for argument in (option, str(file))]
    result = optadvise("trajectories", "sgd", "adamw", "--steps", "4", *options)
    assert result.code == 0
    assert result.out.startswith("Saddle")
    with Image.open(files["--plot"]) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 1500
        assert min(picture.info["dpi"]) >= 149.9
    with Image.open(files["--animate"]) as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == ("GIF", 5)
    jsonschema.validate(json.loads(files["--json"].read_text(encoding="utf-8")), SCHEMA)


def test_animation_frames() -> None:
    assert list_frames(4) == [0, 1, 2, 3, 4]
    assert list_frames(0) == [0]
    frames = list_frames(1000)
    assert (frames[0], frames[-1], len(frames), frames) == (0, 1000, 48, sorted(set(frames)))


@by_turns(1, 2)
def test_plot_of_a_tall_surface(tmp_path: Path) -> None:
    result = optadvise(
        "trajectories", "adamw", "--surface", "rosenbrock", "--steps", "5", "--plot", str(tmp_path / "w.svg")
    )
    assert result.code == 0
    assert (tmp_path / "w.svg").read_bytes().startswith(b"<?xml")


def test_plots_require_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert optadvise("trajectories", "sgd", "--steps", "2").code == 0
    for option, name in (("--plot", "w.png"), ("--animate", "w.gif")):
        result = optadvise("trajectories", "sgd", option, str(tmp_path / name))
        assert (result.code, result.error, len(result.err.splitlines())) == (4, "missing-package", 1)
        assert "pip install 'optadvise[plot]'" in result.err
    assert not list(tmp_path.iterdir())


def test_learning_rates_do_not_leave_the_plotted_range_at_once(catalog: Catalog) -> None:
    cards = [catalog.optimizer(name) for name in catalog.optimizer_ids]
    for surface in catalog.surfaces.values():
        result = trajectories.compute_trajectories(surface, cards, 3)
        assert not [each.optimizer for each in result.trajectories if each.end != "steps" and len(each.points) < 4], (
            surface.id
        )


def test_an_interruption_keeps_what_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, computed = trajectories.compute_points, []

    def interrupt(*arguments: Any) -> object:
        computed.append(arguments)
        if len(computed) > 1:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(trajectories, "compute_points", interrupt)
    result = optadvise("trajectories", "adam", "adamw", "sgd", "--json", "-")
    assert (result.code, result.error) == (130, "interrupted")
    data = json.loads(result.out)
    assert [one["id"] for one in data["walks"]] == ["adam"]
    assert {one["id"]: one["because"] for one in data["left_out"]} == dict.fromkeys(("adamw", "sgd"), "interrupted")
