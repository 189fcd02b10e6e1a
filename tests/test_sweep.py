"""`optadvise sweep`: grids that can be stopped, resumed and shared by several processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from filelock import FileLock

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark import plan, sweep, variants
from optadvise.benchmark.records import BenchmarkResult
from optadvise.benchmark.request import Request
from optadvise.benchmark.saved_results import decode_result
from optadvise.benchmark.slurm import submit_cells
from optadvise.benchmark.sweep_file import read_sweep
from optadvise.benchmark.sweep_records import Cell, CellFile, SweepResult
from optadvise.cli import interrupts
from optadvise.core import files
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, OptadviseWarning, RuleFileError
from optadvise.core.json_text import encode_json
from optadvise.render.text import sweep as text_sweep
from optadvise.render.text.sweep import print_sweep
from optadvise.rule_analysis.rule_folders import load_rules
from tests.cli import optadvise
from tests.conftest import ROOT, by_turns
from tests.results import result

GRID = """
optimizers: [adamw, lion]
params: 100K
precision: [fp32, bf16]
optimizer_only: true
rounds: 1
steps: 1
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    file = tmp_path / "grid.yaml"
    file.write_text(GRID, encoding="utf-8")
    return file


def read_cells(file: Path, rules: CompiledRules) -> list[Cell]:
    grid = read_sweep(file, sweep.OPTIONS)
    return sweep.make_cells(rules, grid.optimizers, grid.options)


def start_sweep(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "optadvise", "sweep", str(file)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip


def test_grid_has_all_combinations_in_order(grid: Path, rules: CompiledRules) -> None:
    cells = read_cells(grid, rules)
    assert [cell.name for cell in cells[:3]] == [
        "adamw_precision-fp32", "adamw_precision-bf16", "lion_precision-fp32"]  # fmt: skip
    assert len(cells) == len({cell.name for cell in cells}) == 4
    assert cells[0].varied == {"precision": "fp32"}
    assert cells[0].options["rounds"] == "1"


def test_sweep_killed_twice_is_resumed(grid: Path) -> None:
    folder = grid.with_suffix("")
    earlier: dict[Path, int] = {}
    for count in (1, 2):
        process = start_sweep(grid)
        until = time.monotonic() + 120
        while len(list(folder.glob("*.json"))) < count and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        current = {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}
        assert len(current) >= count
        assert all(current[file] == time_ns for file, time_ns in earlier.items())  # no cell is measured again
        assert all(json.loads(file.read_text(encoding="utf-8"))["result"]["complete"] for file in current)
        earlier = current
    command = optadvise("sweep", str(grid), "--json", "-")
    data = json.loads(command.out)
    assert (command.code, data["kind"], data["complete"], len(data["cells"])) == (0, "sweep", True, 4)
    jsonschema.validate(data, json.loads((ROOT / "docs" / "schema" / "sweep.json").read_text(encoding="utf-8")))
    assert {cell["arm"]["status"] for cell in data["cells"]} == {"ok"}
    assert all(file.stat().st_mtime_ns == time_ns for file, time_ns in earlier.items())
    assert not list(folder.glob(".*.lock"))


@pytest.mark.parametrize("is_locked", [False, True])
def test_lock_of_a_process_killed_after_saving_is_removed(
    grid: Path, rules: CompiledRules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    cell = read_cells(grid, rules)[0]
    saved = encode_json(CellFile(cell.options, decode_result(json.dumps(result()).encode(), "")))
    (tmp_path / f"{cell.name}.json").write_text(saved, encoding="utf-8")
    monkeypatch.setattr(sweep, "measure", lambda request: pytest.fail("measured again"))
    lock = tmp_path / f".{cell.name}.lock"
    with lock.open("w") as file:
        if is_locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        outcome = sweep.measure_cell(rules, tmp_path, cell)
    assert outcome.result is not None
    assert outcome.reason is None
    assert lock.exists() == is_locked


def pretend_to_measure(file: str, log: str) -> None:
    """Run a sweep whose cells take no time, once stdin has a line; write the name of each measured cell to a log."""
    answer = decode_result(json.dumps(result()).encode(), "")

    def measure(request: Request) -> BenchmarkResult:
        with open(log, "a", encoding="utf-8") as opened:  # noqa: PTH123
            opened.write(f"{request.arms[0].optimizer} {request.spec.seed}\n")
        time.sleep(0.01)
        return answer

    vars(sweep)["measure"] = measure
    compiled = load_rules(None)
    cells = read_cells(Path(file), compiled)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in sweep.run_sweep(compiled, Path(file).with_suffix(""), cells, lambda cell, number: None):
        pass


def test_two_processes_never_measure_one_cell(tmp_path: Path) -> None:
    grid, log = tmp_path / "grid.yaml", tmp_path / "log"
    grid.write_text(f"optimizers: [adamw, lion]\nseed: {list(range(40))}\nrounds: 1\n", encoding="utf-8")
    grid.with_suffix("").mkdir()
    code = f"from tests.test_sweep import *; pretend_to_measure({str(grid)!r}, {str(log)!r})"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n", timeout=100)
    measured = log.read_text("utf-8").splitlines()
    assert (len(measured), len(set(measured))) == (80, 80)
    assert len(list(grid.with_suffix("").iterdir())) == 80  # no locks are left


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError(), PermissionError(13, "")])
def test_folder_that_cannot_be_locked(
    grid: Path, rules: CompiledRules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def acquire(self: FileLock, **options: bool) -> None:
        raise error

    monkeypatch.setattr(sweep, "measure", lambda request: pytest.fail("measured without a lock"))
    monkeypatch.setattr(FileLock, "acquire", acquire)
    if isinstance(error, PermissionError):  # the lock of another user: other cells can be measured
        outcome = sweep.measure_cell(rules, tmp_path, read_cells(grid, rules)[0])
        assert (outcome.result, bool(outcome.reason)) == (None, True)
        return
    command = optadvise("sweep", str(grid))
    assert command.failure is not None
    assert (command.code, command.error, command.failure.option) == (2, "file-not-writable", "--folder")
    assert len(command.err.splitlines()) == 2  # the name of the cell, and the error


@pytest.mark.parametrize("folder", ["/dev/null/cells", "/proc/cells", "full"])
def test_folder_is_checked_before_anything_is_measured(
    grid: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep, "run_sweep", lambda *arguments: pytest.fail("measured"))
    if folder == "full":
        monkeypatch.setattr(files, "_write_probe", fail)
        folder = str(tmp_path / folder)
    command = optadvise("sweep", str(grid), "--folder", folder)
    assert command.failure is not None
    assert (command.code, command.error, command.failure.option) == (2, "file-not-writable", "--folder")
    assert len(command.err.splitlines()) == 1


def test_a_cell_that_cannot_be_written_is_reported_first(
    grid: Path, rules: CompiledRules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sweep, "run_sweep", lambda *arguments: pytest.fail("measured"))
    folder = tmp_path / "cells"
    (folder / f"{read_cells(grid, rules)[-1].name}.json").mkdir(parents=True)
    command = optadvise("sweep", str(grid), "--folder", str(folder))
    assert command.failure is not None
    assert (command.code, command.error, command.failure.option) == (2, "file-not-writable", "--folder")


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ("slurm_setup: [touch x]", "unknown-key"),
        ("slurm_srun_args: [x]", "unknown-key"),
        ("slurm_additional_parameters: {wrap: x}", "unknown-key"),
        ('slurm_comment: "x\\n#SBATCH --wrap=x"', "invalid-value"),
        ("slurm_partition: [gpu]", "invalid-value"),
    ],
)
def test_job_parameters_run_no_commands(tmp_path: Path, parameters: str, error: str) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"optimizers: [adamw]\nslurm: {{{parameters}}}\n", encoding="utf-8")
    command = optadvise("sweep", str(grid), "--launcher", "slurm")
    assert (command.code, command.error) == (3, error), command.err


def test_large_grids_are_planned_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, calls = load_rules(None), []

    def count(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(function)
            return function(*arguments)

        return call

    monkeypatch.setattr(plan, "advise", count(advise))
    monkeypatch.setattr(variants, "find_spec", count(find_spec))
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"optimizers: [adamw, lion]\nseed: {list(range(1000))}\n", encoding="utf-8")
    assert len(read_cells(grid, CompiledRules(compiled.catalog))) == 2000
    assert len(calls) < 20  # not for each cell
    grid.write_text(f"optimizers: [adamw, lion]\nseed: {list(range(20_000))}\n", encoding="utf-8")
    with pytest.raises(RuleFileError) as caught:
        read_sweep(grid, sweep.OPTIONS)
    assert caught.value.code is ErrorCode.OUT_OF_RANGE


def test_large_interrupted_sweep_ends_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither printing all cells nor reading those of other processes delays the end; printing can be interrupted."""
    answer, interrupted = decode_result(json.dumps(result()).encode(), ""), []

    def measure(request: Request) -> BenchmarkResult:
        if request.spec.seed == 0:
            return answer
        interrupted.append(time.process_time())
        raise KeyboardInterrupt

    def print_and_check(shown: SweepResult) -> None:
        assert not interrupts._interrupts._is_held
        print_sweep(shown)

    monkeypatch.setattr(sweep, "measure", measure)
    monkeypatch.setattr(text_sweep, "print_sweep", print_and_check)
    grid, out = tmp_path / "grid.yaml", tmp_path / "out.json"
    grid.write_text(f"optimizers: [adamw]\nseed: {list(range(9999))}\n", encoding="utf-8")
    command = optadvise("sweep", str(grid), "--json", str(out))
    assert time.process_time() - interrupted[0] < 5  # 20 before; of this process, as the machine may be busy
    assert (command.code, command.error) == (130, "interrupted"), command.err
    assert len(command.out.splitlines()) < 300
    cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    assert (len(cells), [number for number, cell in enumerate(cells) if cell["arm"]]) == (9999, [0])
    assert [file.name for file in grid.with_suffix("").glob("*.json")] == ["adamw_seed-0.json"]


def test_long_names_of_cells_are_shortened() -> None:
    names = {sweep._name_cell("adamw", {"workload": f"{'é' * length}:{name}"}) for name in "ab" for length in (20, 300)}
    assert len(names) == 4
    assert max(len(name.encode()) for name in names) <= 200


def test_cell_locked_by_another_process_is_skipped(grid: Path, rules: CompiledRules, tmp_path: Path) -> None:
    (cell, *_) = read_cells(grid, rules)
    with (tmp_path / f".{cell.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = sweep.measure_cell(rules, tmp_path, cell)
        assert outcome.result is None
        assert "another process" in (outcome.reason or "")
    assert not (tmp_path / f"{cell.name}.json").exists()
    finished = decode_result(json.dumps(result()).encode(), "")  # by the other process
    (tmp_path / f"{cell.name}.json").write_text(encode_json(CellFile(cell.options, finished)), encoding="utf-8")
    (refreshed,) = sweep.refresh_outcomes(tmp_path, [outcome])
    assert refreshed.result == finished
    assert list(sweep.refresh_outcomes(tmp_path, [outcome], seconds=0)) == [outcome]  # not read


def test_cells_with_errors_or_other_options_are_measured_again(
    grid: Path, rules: CompiledRules, tmp_path: Path
) -> None:
    (cell, *_) = read_cells(grid, rules)

    def write_and_read(status: str, **options: str) -> Any:
        data = result()
        data["arms"][0]["status"] = status
        entry = {"options": {**cell.options, **options}, "result": data}
        (tmp_path / f"{cell.name}.json").write_text(json.dumps(entry), encoding="utf-8")
        return sweep.read_cell(tmp_path, cell)

    assert write_and_read("ok") is not None
    assert write_and_read("oom") is not None  # deterministic
    assert write_and_read("unsupported") is not None
    assert write_and_read("error") is None
    assert write_and_read("ok", rounds="7") is None
    (tmp_path / f"{cell.name}.json").write_text("{", encoding="utf-8")
    with pytest.warns(OptadviseWarning):
        assert sweep.read_cell(tmp_path, cell) is None
    assert (tmp_path / f"{cell.name}.json.damaged").read_text(encoding="utf-8") == "{"


def test_table_and_plot(grid: Path, tmp_path: Path) -> None:
    table, picture = tmp_path / "grid.md", tmp_path / "grid.png"
    command = optadvise("sweep", str(grid), "--markdown", str(table), "--plot", str(picture))
    assert command.code == 0
    assert max(map(len, command.out.splitlines())) <= 80
    first, second, *_ = command.out.splitlines()
    assert first.split() == ["optimizer", "training", "state", "peak"]
    assert second.split() == ["precision", "status", "ms", "step", "ms", "B/param", "MiB"]
    assert sum(line.split()[:1] == ["lion"] for line in command.out.splitlines()) == 2
    assert table.read_text(encoding="utf-8").count("\n| ") == 4
    assert picture.stat().st_size > 10_000


def test_unsupported_cell_is_reported_and_others_continue(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    text = "optimizers: [sgd, paged-adamw8bit]\noptimizer_only: true\nparams: 100K\nrounds: 1\nsteps: 1\n"
    file.write_text(text, encoding="utf-8")
    command = optadvise("sweep", str(file), "--json", str(tmp_path / "out.json"))
    assert command.code == 0
    assert "unsupported" in command.out
    cells = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["cells"]
    assert [(cell["arm"]["status"], cell["arm"]["error_code"]) for cell in cells] == [
        ("ok", None), ("unsupported", "unsupported")]  # fmt: skip


@by_turns(0, 2)
def test_cells_as_cluster_jobs(grid: Path, rules: CompiledRules, tmp_path: Path) -> None:
    """submitit's local executor replaces the cluster."""
    cells = read_cells(grid, rules)[:2]
    outcomes = submit_cells(tmp_path, cells, {"timeout_min": 5}, (), cluster="local")
    assert [outcome.reason for outcome in outcomes] == [None, None]
    assert all(outcome.result is not None for outcome in outcomes)


def test_slurm_is_not_available(grid: Path) -> None:
    command = optadvise("sweep", str(grid), "--launcher", "slurm")
    assert command.failure is not None
    assert (command.code, command.error, command.out) == (4, "unsupported", "")
    assert (command.failure.option, command.failure.value) == ("--launcher", "slurm")
    assert len(command.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "error", "option", "value"),
    [
        ("optimizers: [adamx]", "unknown-name", None, "adamx"),
        ("optimizers: []", "invalid-entry", None, None),
        ("optimizers: [adamw, AdamW]", "duplicate-entry", None, "adamw"),
        ("optimizers: [adamw]\nparms: [1M]", "unknown-key", None, None),
        ("params: [1M]", "missing-key", None, None),
        ("optimizers: [adamw]\nparams: [1M, 1M]", "duplicate-entry", None, None),
        ("optimizers: [adamw]\nparams: [lots]", "invalid-number", "--params", "lots"),
        ("optimizers: [adamw]\nprecision: []", "invalid-entry", None, None),
        ("optimizers: [adamw]\nprecision: fp32\ndtype: fp32", "duplicate-entry", None, None),
        ("optimizers: [adamw]\ncompile: maybe", "invalid-value", "--compile", "maybe"),
        ("optimizers: [adamw]\nseed: x", "invalid-number", "--seed", "x"),
        ("", "invalid-syntax", None, None),
    ],
)
def test_invalid_sweep_files(text: str, error: str, option: str | None, value: str | None, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text, encoding="utf-8")
    command = optadvise("sweep", str(file))
    assert command.failure is not None
    assert (command.out, len(command.err.splitlines())) == ("", 1), command
    assert command.code in (2, 3)
    assert command.error == error
    assert (command.failure.option, command.failure.value) == (option, value)
    assert command.err.startswith(f"optadvise: {file}")


@pytest.mark.parametrize(
    ("arguments", "error", "option"),
    [
        ("nowhere.yaml", "file-not-found", None),
        ("GRID --launcher k8s", "unknown-choice", "--launcher"),
        ("GRID --json no/such/x.json", "file-not-writable", "--json"),
    ],
)
def test_invalid_command_lines(arguments: str, error: str, option: str | None, grid: Path) -> None:
    command = optadvise("sweep", *arguments.replace("GRID", str(grid)).split())
    assert command.failure is not None
    assert (command.code, command.out, len(command.err.splitlines())) == (2, "", 1), command
    assert (command.error, command.failure.option) == (error, option)


@pytest.mark.parametrize("key", ["precision", "dtype"])
def test_precision_has_a_former_name(key: str, rules: CompiledRules, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(f"optimizers: [adamw]\n{key}: [fp32, bf16]\n", encoding="utf-8")
    assert [cell.varied for cell in read_cells(file, rules)] == [{key: "fp32"}, {key: "bf16"}]
    file.write_text(f"optimizers: [adamw]\n{key}: fp8\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_cells(file, rules)
    assert caught.value.code is ErrorCode.UNKNOWN_CHOICE
    assert (caught.value.option, caught.value.value) == ("--precision", "fp8")
