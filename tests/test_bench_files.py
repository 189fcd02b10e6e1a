"""Results are written whole or not at all, and where they cannot be written is found before measuring."""

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
from optadvise.core import files
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json
from tests.bench import one_line, result_in, workers
from tests.cli import optadvise

FLAGS = ("--json", "--csv", "--markdown", "--dashboard")
QUICK = ("--workload", "mine:plain", "--rounds", "2", "--steps", "2", "--threads", "1", "--control", "none")


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything is measured."""

    def run(arms: Sequence[object], rounds: int, **_: object) -> None:
        pytest.fail("it measured")

    monkeypatch.setattr(runner, "run_arms", run)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no/such/out", "there is no folder"),
        ("folder", "is a folder; name a file in it"),
        ("", "is a folder; name a file in it"),
        ("mine.py/out", "there is no folder"),
        ("/proc/out", "cannot be written ("),
        ("/dev/full", "is no regular file"),
        ("/dev/null", "is no regular file"),
        ("pipe", "is no regular file"),
        ("x" * 300, "cannot be written (File name too long)"),
        ("x" * 255, "cannot be written (File name too long)"),
    ],
)
def test_an_unwritable_path_is_found_before_measuring(mine: Path, flag: str, path: str, problem: str) -> None:
    (mine / "folder").mkdir()
    os.mkfifo(mine / "pipe")
    said = optadvise("bench", "adamw", *QUICK, flag, path)
    assert (said.code, said.out) == (2, "")
    line = one_line(said.err)
    assert line.startswith(f"{flag} ")
    assert problem in line
    assert Path("/dev/null").is_char_device()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("flag", FLAGS[1:])
def test_only_json_goes_to_stdout(mine: Path, flag: str) -> None:
    said = optadvise("bench", "adamw", *QUICK, flag, "-")
    assert (said.code, said.out) == (2, "")
    assert one_line(said.err) == f"{flag} -: only JSON goes to stdout; name a file"


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x y", "x" * 101])
def test_a_name_that_no_file_can_have(name: str) -> None:
    said = optadvise("bench", "adamw", "--save", name)
    assert said.code == 2
    assert one_line(said.err).startswith(f"--save {name!r}: a name has letters")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("folder", ["/dev/null/results", "/proc/results", "mine.py"])
def test_a_data_folder_that_cannot_be_made(mine: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("OPTADVISE_DATA_DIR", folder)
    said = optadvise("bench", "adamw", *QUICK, "--save", "main")
    assert said.code == 2
    assert "cannot be made (" in one_line(said.err)


def test_a_full_disk_is_found_before_measuring(mine: Path) -> None:
    """A limit on the size of files stands for the disk: writing more than 100 KiB fails."""
    command = f"ulimit -f 100; exec {sys.executable} -m optadvise bench adamw --json out.json"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith("--json '")
    assert "cannot be written (File too large)" in done.stderr
    assert "starting" not in done.stderr
    assert not (mine / "out.json").exists()


def test_a_folder_that_goes_away_while_measuring_is_one_line(mine: Path) -> None:
    (mine / "results").mkdir()
    said = optadvise("bench", "adamw", *QUICK, "--workload", "mine:folderless", "--json", "results/out.json")
    assert said.code == 2
    assert one_line(said.err).endswith("cannot be written (No such file or directory); name another place")
    assert workers() == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["write_bytes", "replace"])
def test_writing_that_is_broken_off_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str
) -> None:
    file = tmp_path / "out.json"
    files.write_output(file, "old")

    def broken(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, at, broken)
        with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt):
            files.write_output(file, "new")
    assert file.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_never_sees_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen = tmp_path / "out.json", []
    files.write_output(file, "old")
    write = Path.write_bytes

    def look(path: Path, content: bytes) -> None:
        write(path, content)
        seen.append(file.read_text("utf-8"))

    monkeypatch.setattr(Path, "write_bytes", look)
    files.write_output(file, "new" * 10_000)
    assert seen == ["old"]
    assert file.read_text("utf-8") == "new" * 10_000
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "out.json", tmp_path / "link.json"
    link.symlink_to(target)
    files.check_writable(link, "--json")
    files.write_output(link, "new")
    assert link.is_symlink()
    assert target.read_text("utf-8") == "new"


def test_all_files_are_written_and_nothing_else(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(mine / "data"))
    before = {file.name for file in mine.iterdir()}
    said = optadvise(
        "bench", "adamw", *QUICK, "--json", "a.json", "--csv", "a.csv", "--markdown", "a.md", "--dashboard", "b.json",
        "--save", "main-2024",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert {file.name for file in mine.iterdir()} - before - {"__pycache__"} == {
        "a.json",
        "a.csv",
        "a.md",
        "b.json",
        "data",
    }
    kept = read_result("main-2024")
    assert json.loads(encode_json(kept)) == result_in((mine / "a.json").read_text("utf-8"))
    assert kept.complete is True
