"""Folders that commands create and fill: links of others are not followed, and errors leave nothing new."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optadvise.benchmark import sweep
from optadvise.core import files
from tests.cli import optadvise
from tests.results import result
from tests.test_files import give_away

COMMANDS = ("rules init", "rules schema -o", "sweep grid.yaml --folder")


@pytest.fixture(autouse=True)
def _grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a grid of two cells into the current folder, and let no cell be measured."""
    (tmp_path / "grid.yaml").write_text("optimizers: [adamw, lion]\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "measure", lambda request: pytest.fail("measured"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("end", ["", "new"])
def test_links_of_others_to_folders_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, end: str
) -> None:
    shared, precious = tmp_path / "shared", tmp_path / "precious"
    shared.mkdir()
    shared.chmod(0o1777)
    precious.mkdir()
    (shared / "folder").symlink_to(precious)
    give_away(monkeypatch, shared / "folder")
    done = optadvise(*command.split(), str(shared / "folder" / end))
    assert (done.code, done.error, len(done.err.splitlines())) == (2, "file-not-writable", 1), done.err
    assert list(precious.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_links_of_the_user_to_folders_are_followed(tmp_path: Path, command: str) -> None:
    (tmp_path / "folder").symlink_to("there")  # which does not exist yet
    assert optadvise(*command.split(), "folder").code == 0
    assert [*(tmp_path / "there").rglob("*.json")]


def test_links_in_place_of_cells_are_checked_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "cells" / "lion.json"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "gone" / "lion.json")

    def run() -> tuple[int, str, str]:
        done = optadvise("sweep", "grid.yaml", "--folder", "cells")
        return done.code, done.error, done.err.splitlines()[0][:10]

    rejected = (2, "file-not-writable", "optadvise:")  # before the first cell is announced
    assert run() == rejected
    (tmp_path / "gone").mkdir()
    link.parent.chmod(0o1777)
    give_away(monkeypatch, link)
    assert run() == rejected


def test_file_of_a_cell_is_checked_before_the_cell_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cells" / "adamw.json"
    file.parent.mkdir()
    file.parent.chmod(0o1777)
    file.write_text(json.dumps({"options": {"seed": "1"}, "result": result()}), "utf-8")  # of another sweep
    give_away(monkeypatch, file)
    done = optadvise("sweep", "grid.yaml", "--folder", "cells")
    assert (done.code, done.error) == (2, "file-not-writable"), done.err


@pytest.mark.parametrize("command", COMMANDS[:2])
@pytest.mark.parametrize("written", [0, 1, 6])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_or_interrupt_leaves_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, written: int, error: BaseException
) -> None:
    """The disk is full after the check and some files."""
    foreign = tmp_path / "outer" / "foreign"
    foreign.parent.mkdir()
    foreign.write_text("foreign", "utf-8")
    replace, paths = files.replace_file, list[Path]()

    def replace_or_fail(path: Path, content: str | bytes) -> None:
        if len(paths) == written:
            raise error
        paths.append(path)
        replace(path, content)

    monkeypatch.setattr(files, "replace_file", replace_or_fail)
    for folder in ("outer/new/rules", "empty"):
        paths.clear()
        (tmp_path / "empty").mkdir(exist_ok=True)
        before = sorted(tmp_path.rglob("*"))
        done = optadvise(*command.split(), folder)
        expected = (2, "file-not-writable") if isinstance(error, OSError) else (130, "interrupted")
        assert (done.code, done.error, len(done.err.splitlines())) == (*expected, 1), done.err
        assert len(paths) == written
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("full_disk")
def test_folder_on_a_full_disk_is_not_left(tmp_path: Path, command: str) -> None:
    done = optadvise(*command.split(), "new/folder")
    assert (done.code, done.error, len(done.err.splitlines())) == (2, "file-not-writable", 1), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_files_that_others_add_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_and_fail(path: Path, content: str | bytes) -> None:
        (path.parent / "foreign").write_text("foreign", "utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace_file", add_and_fail)
    assert optadvise("rules", "init", "new").code == 2
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"foreign", "grid.yaml"}


def test_a_folder_is_unchanged_if_one_of_its_files_cannot_be_written(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside.json"
    (folder / "words.json").mkdir(parents=True)  # in the place of the last file
    (folder / "facts.json").write_text("mine", "utf-8")
    (folder / "definitions.json").symlink_to(outside)  # which does not exist
    assert optadvise("rules", "schema", "-o", "folder").code == 2
    assert (folder / "facts.json").read_text("utf-8") == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["definitions.json", "facts.json", "words.json"]
    assert not outside.exists()


def test_new_targets_of_links_are_removed_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    outside, replace = tmp_path / "outside.json", files.replace_file
    (tmp_path / "folder" / "definitions.json").symlink_to(outside)

    def replace_until_then(path: Path, content: str | bytes) -> None:
        if outside.exists():
            raise OSError(28, "No space left on device")
        replace(path, content)

    monkeypatch.setattr(files, "replace_file", replace_until_then)
    assert optadvise("rules", "schema", "-o", "folder").code == 2
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["definitions.json"]
    assert not outside.exists()
