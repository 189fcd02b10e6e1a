"""`optadvise sweep`: a grid that may be stopped at any time, taken up again, and worked on by several."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import sweep
from optadvise.benchmark.slurm import submit_cells
from optadvise.benchmark.sweep_file import read_sweep
from optadvise.benchmark.sweep_records import Cell
from tests.cli import optadvise
from tests.conftest import ROOT
from tests.results import result

GRID = """
optimizers: [adamw, lion]
params: 100K
dtype: [fp32, bf16]
optimizer_only: true
rounds: 1
steps: 1
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    file = tmp_path / "grid.yaml"
    file.write_text(GRID, encoding="utf-8")
    return file


def cells(file: Path, rules: CompiledRules) -> list[Cell]:
    content = read_sweep(file, sweep.OPTIONS)
    return sweep.make_cells(rules, content.optimizers, content.options)


def started(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "optadvise", "sweep", str(file)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip


def test_a_grid_is_every_combination_in_its_order(grid: Path, rules: CompiledRules) -> None:
    found = cells(grid, rules)
    assert [cell.name for cell in found[:3]] == [
        "adamw_dtype-fp32", "adamw_dtype-bf16", "lion_dtype-fp32"]  # fmt: skip
    assert len(found) == len({cell.name for cell in found}) == 4
    assert found[0].varied == {"dtype": "fp32"}
    assert found[0].options["rounds"] == "1"


def test_a_sweep_that_is_killed_twice_goes_on_where_it_was(grid: Path) -> None:
    folder = grid.with_suffix("")
    seen: dict[Path, int] = {}
    for wanted in (1, 2):
        running = started(grid)
        until = time.monotonic() + 120
        while len(list(folder.glob("*.json"))) < wanted and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        now = {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}
        assert len(now) >= wanted
        assert all(now[file] == when for file, when in seen.items())  # nothing is measured again
        assert all(json.loads(file.read_text(encoding="utf-8"))["result"]["complete"] for file in now)
        seen = now
    said = optadvise("sweep", str(grid), "--json", "-")
    data = json.loads(said.out)
    assert (said.code, data["kind"], data["complete"], len(data["cells"])) == (0, "sweep", True, 4)
    jsonschema.validate(data, json.loads((ROOT / "docs" / "schema" / "sweep.json").read_text(encoding="utf-8")))
    assert {cell["arm"]["status"] for cell in data["cells"]} == {"ok"}
    assert all(file.stat().st_mtime_ns == when for file, when in seen.items())
    assert not list(folder.glob(".*.lock"))


def test_two_sweeps_on_one_folder_share_the_work(grid: Path) -> None:
    both = [started(grid) for _ in range(2)]
    ends = [(one.communicate(timeout=300), one.returncode) for one in both]
    assert {code for _, code in ends} <= {0, 5}, ends  # 5: the other was still at a cell
    folder = grid.with_suffix("")
    assert len(list(folder.glob("*.json"))) == 4
    assert all(json.loads(file.read_text(encoding="utf-8"))["result"]["complete"] for file in folder.glob("*.json"))
    assert optadvise("sweep", str(grid)).code == 0


def test_a_cell_that_another_process_measures_is_left_to_it(grid: Path, rules: CompiledRules, tmp_path: Path) -> None:
    (cell, *_) = cells(grid, rules)
    with (tmp_path / f".{cell.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep.measure_cell(rules, tmp_path, cell).reason == "another process measures it"
    assert not (tmp_path / f"{cell.name}.json").exists()


def test_what_was_an_accident_or_another_question_is_measured_again(
    grid: Path, rules: CompiledRules, tmp_path: Path
) -> None:
    (cell, *_) = cells(grid, rules)

    def kept(status: str, **options: str) -> Any:
        measured = result()
        measured["arms"][0]["status"] = status
        entry = {"options": {**cell.options, **options}, "result": measured}
        (tmp_path / f"{cell.name}.json").write_text(json.dumps(entry), encoding="utf-8")
        return sweep.read_cell(tmp_path, cell)

    assert kept("ok") is not None
    assert kept("oom") is not None  # it would run out of memory again
    assert kept("unsupported") is not None
    assert kept("error") is None
    assert kept("ok", rounds="7") is None
    (tmp_path / f"{cell.name}.json").write_text("{", encoding="utf-8")
    assert sweep.read_cell(tmp_path, cell) is None


def test_the_table_and_the_picture(grid: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "grid.md", tmp_path / "grid.png"
    said = optadvise("sweep", str(grid), "--markdown", str(page), "--plot", str(picture))
    assert said.code == 0
    assert max(map(len, said.out.splitlines())) <= 80
    assert said.out.splitlines()[0].split() == ["dtype", "step()", "ms", "whole", "ms", "B/param", "peak", "MiB"]
    assert sum(line.split()[:1] == ["lion"] for line in said.out.splitlines()) == 2
    assert page.read_text(encoding="utf-8").count("\n| ") == 4
    assert picture.stat().st_size > 10_000


def test_a_cell_that_cannot_run_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    text = "optimizers: [sgd, paged-adamw8bit]\noptimizer_only: true\nparams: 100K\nrounds: 1\nsteps: 1\n"
    file.write_text(text, encoding="utf-8")
    said = optadvise("sweep", str(file))
    assert said.code == 0
    assert "unsupported" in said.out
    assert "paged state needs CUDA" in " ".join(said.out.split())


def test_cells_as_jobs(grid: Path, rules: CompiledRules, tmp_path: Path) -> None:
    """submitit's own executor on this machine stands for a cluster."""
    asked = cells(grid, rules)[:2]
    outcomes = submit_cells(tmp_path, asked, {"timeout_min": 5}, (), cluster="local")
    assert [outcome.reason for outcome in outcomes] == [None, None]
    assert all(outcome.result is not None for outcome in outcomes)


def test_there_is_no_cluster_here(grid: Path) -> None:
    said = optadvise("sweep", str(grid), "--launcher", "slurm")
    assert (said.code, said.out, len(said.err.splitlines())) == (4, "", 1), said
    assert said.err.startswith("optadvise: --launcher slurm: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizers: [adamx]", "optimizers 'adamx': not known; did you mean 'adam'"),
        ("optimizers: []", "expected at least 1 item here"),
        ("optimizers: [adamw, AdamW]", "two cells are both adamw"),
        ("optimizers: [adamw]\nparms: [1M]", "unknown key 'parms'; did you mean 'params'"),
        ("optimizers: [adamw]\nparams: [1M, 1M]", "`params` has 1M twice"),
        ("optimizers: [adamw]\nparams: [lots]", "adamw: --params 'lots'"),
        ("optimizers: [adamw]\ndtype: []", "an empty list measures nothing"),
        ("optimizers: [adamw]\ncompile: maybe", "`compile` is true or false, not maybe"),
        ("optimizers: [adamw]\nseed: x", "`seed` is a number, not x"),
        ("", "the file is empty"),
    ],
)
def test_a_sweep_that_is_written_wrong_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text, encoding="utf-8")
    said = optadvise("sweep", str(file))
    assert (said.out, len(said.err.splitlines())) == ("", 1), said
    assert said.code in (2, 3)
    assert said.err.startswith(f"optadvise: {file}")
    assert message in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere.yaml", "'nowhere.yaml': cannot be read (No such file or directory); name a sweep"),
        ("GRID --launcher k8s", "--launcher 'k8s': is local or slurm"),
        ("GRID --json no/such/x.json", "there is no folder"),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments: str, message: str, grid: Path) -> None:
    said = optadvise("sweep", *arguments.replace("GRID", str(grid)).split())
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), said
    assert message in said.err
