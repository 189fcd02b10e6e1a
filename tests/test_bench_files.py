"""Output files of bench: written atomically, and checked before measuring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from optadvise.benchmark import runner
from optadvise.benchmark.saved_results import read_result
from optadvise.core.json_text import encode_json
from tests.bench import find_error_line, list_workers, parse_result
from tests.cli import optadvise

FLAGS = ("--json", "--csv", "--markdown", "--dashboard")
QUICK = ("--workload", "mine:plain", "--rounds", "2", "--steps", "2", "--threads", "1", "--control", "none")


@pytest.fixture
def _forbid_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if anything is measured."""

    def run(arms: Sequence[object], rounds: int, **_: object) -> None:
        pytest.fail("measured in spite of an invalid option")

    monkeypatch.setattr(runner, "run_arms", run)


@pytest.mark.usefixtures("_forbid_measuring")
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize(
    "path",
    [
        "no/such/out",
        "folder",
        "mine.py/out",
        "/proc/out",
        "/dev/full",
        "/dev/null",
        "pipe",
        "x" * 300,
    ],
)
def test_unwritable_path(mine: Path, flag: str, path: str) -> None:
    (mine / "folder").mkdir()
    os.mkfifo(mine / "pipe")
    command = optadvise("bench", "adamw", *QUICK, flag, path)
    assert command.failure is not None
    assert (command.code, command.error) == (2, "file-not-writable")
    assert (command.failure.option, command.failure.value) == (flag, os.path.realpath(path))
    assert find_error_line(command.err).startswith(f"{flag} ")
    assert Path("/dev/null").is_char_device()


@pytest.mark.usefixtures("_forbid_measuring")
@pytest.mark.parametrize("flag", FLAGS[1:])
def test_only_json_is_printed_to_stdout(mine: Path, flag: str) -> None:
    command = optadvise("bench", "adamw", *QUICK, flag, "-")
    assert command.failure is not None
    assert (command.code, command.failure.option, command.out) == (2, flag, "")
    assert find_error_line(command.err).startswith(f"{flag} ")


@pytest.mark.usefixtures("_forbid_measuring")
@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x y", "x" * 101])
def test_invalid_name_of_a_saved_result(name: str) -> None:
    command = optadvise("bench", "adamw", "--save", name)
    assert command.failure is not None
    assert (command.code, command.error) == (2, "invalid-value")
    assert (command.failure.option, command.failure.value) == ("--save", name)


@pytest.mark.usefixtures("_forbid_measuring")
@pytest.mark.parametrize("folder", ["/dev/null/results", "/proc/results", "mine.py"])
def test_data_folder_that_cannot_be_created(mine: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("OPTADVISE_DATA_DIR", folder)
    command = optadvise("bench", "adamw", *QUICK, "--save", "main")
    assert command.failure is not None
    assert (command.code, command.error, command.failure.option) == (2, "file-not-writable", "--save")
    assert folder.startswith(str(command.failure.value))
    find_error_line(command.err)


def test_full_disk_is_detected_before_measuring(mine: Path) -> None:
    """A limit of 100 KiB on file sizes simulates the full disk."""
    command = f"ulimit -f 100; exec {sys.executable} -m optadvise bench adamw --json out.json"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1  # no progress
    assert find_error_line(process.stderr).startswith("--json '")
    assert "(File too large)" in process.stderr
    assert not (mine / "out.json").exists()


def test_folder_removed_while_measuring(mine: Path) -> None:
    (mine / "results").mkdir()
    command = optadvise("bench", "adamw", *QUICK, "--workload", "mine:folderless", "--json", "results/out.json")
    assert (command.code, command.error) == (2, "file-not-writable")
    assert "results/out.json" in find_error_line(command.err)
    assert list_workers() == []


def test_all_requested_files_are_written(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(mine / "data"))
    before = {file.name for file in mine.iterdir()}
    command = optadvise(
        "bench", "adamw", *QUICK, "--json", "a.json", "--csv", "a.csv", "--markdown", "a.md", "--dashboard", "b.json",
        "--save", "main-2024",
    )  # fmt: skip
    assert command.code == 0, command.err
    assert {file.name for file in mine.iterdir()} - before - {"__pycache__"} == {
        "a.json",
        "a.csv",
        "a.md",
        "b.json",
        "data",
    }
    saved = read_result("main-2024")
    assert json.loads(encode_json(saved)) == parse_result((mine / "a.json").read_text("utf-8"))
    assert saved.complete is True
