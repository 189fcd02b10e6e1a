"""Files that commands write: atomic, with the user's permissions, checked first; foreign files are neither changed nor
deleted, and folders that other users can change are not used."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from optadvise.cli import interrupts, outputs
from optadvise.core import files, private_files
from optadvise.core.errors import InputError, OptadviseWarning
from optadvise.core.findings import AuditFinding
from optadvise.diagnostics import doctor
from optadvise.evidence import store
from optadvise.evidence.versions import find_versions
from optadvise.rule_analysis import rule_folders, rule_tests
from optadvise.rulebase import cache
from optadvise.rulebase.catalog import load
from tests.cli import optadvise
from tests.results import result as result_data

FINDING = AuditFinding(
    optimizer="adamw", path="torch.optim.AdamW", package="torch", verdict="conforms", why=None, worst=None,
    date="2026-11-30", packages=find_versions(["torch"]),
)  # fmt: skip
KEY = "rules-" + "0123456789abcdef" * 8


@pytest.fixture(autouse=True)
def _no_earlier_warnings() -> None:
    private_files._warn_once.cache_clear()


def give_away(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let a file, folder or link belong to another user."""
    for name in ("stat", "lstat"):
        original = getattr(Path, name)

        def read(self: Path, original: Callable[..., os.stat_result] = original, **options: bool) -> object:
            status = original(self, **options)
            return status if self != path else SimpleNamespace(st_mode=status.st_mode, st_uid=status.st_uid + 1)

        monkeypatch.setattr(Path, name, read)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["fdopen", "replace"])
def test_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str
) -> None:
    file = tmp_path / "out.json"
    files.write_output(file, "old")

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os if at == "fdopen" else Path, at, fail)
        with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt):
            files.write_output(file, "new")
    assert file.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(Path, "replace", lambda *paths: signal.raise_signal(number))
    earlier = signal.signal(number, interrupts._Interrupts().handle)
    try:
        result = optadvise("list", "-o", str(tmp_path / "out"))
    finally:
        signal.signal(number, earlier)
    assert (result.code, list(tmp_path.iterdir())) == (130, [])


@pytest.mark.usefixtures("full_disk")
def test_full_disk_is_reported_and_leaves_no_files(tmp_path: Path) -> None:
    file = tmp_path / "rules.md"
    for path, command in ((file, "rules docs -o"), (file, "show adamw -o"), (tmp_path / "s", "rules schema -o")):
        result = optadvise(*command.split(), str(path))
        assert (result.code, result.error) == (2, "file-not-writable"), command
        assert len(result.err.splitlines()) == 1
        assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == []


def test_files_are_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, contents, replace = tmp_path / "out.json", [], Path.replace
    files.write_output(file, "old")

    def read_and_replace(self: Path, target: Path) -> Path:
        contents.append((target.read_text("utf-8"), self.read_text("utf-8")))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", read_and_replace)
    files.write_output(file, "new" * 10_000)
    assert contents == [("old", "new" * 10_000)]
    assert file.read_text("utf-8") == "new" * 10_000


@pytest.mark.parametrize(
    ("command", "umask"),
    [("rules docs -o", 0o077), ("rules schema table -o", 0o002), ("show adamw -o", 0o022), ("list -o", 0o077)],
)
def test_new_files_respect_the_umask_and_old_ones_keep_their_permissions(
    tmp_path: Path, command: str, umask: int
) -> None:
    path = tmp_path / "out"
    earlier = os.umask(umask)
    try:
        assert optadvise(*command.split(), str(path)).code == 0
        file = path / "table.json" if path.is_dir() else path
        assert mode(file) == 0o666 & ~umask
        file.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(file, 12345, 12345)
        assert optadvise(*command.split(), str(path)).code == 0
    finally:
        os.umask(earlier)
    assert mode(file) == 0o640
    assert os.geteuid() != 0 or (file.stat().st_uid, file.stat().st_gid) == (12345, 12345)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("link_target", ["there/out.json", "../TMP/there/out.json", "second.json"])
def test_links_of_the_user_are_followed(tmp_path: Path, link_target: str) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "out.json", tmp_path / "link.json"
    (tmp_path / "second.json").symlink_to(target)
    link.symlink_to(link_target.replace("TMP", tmp_path.name))
    files.check_writable(link, "--json")
    files.write_output(link, "new")
    assert link.is_symlink()
    assert target.read_text("utf-8") == "new"


@pytest.mark.parametrize("planted", ["out.json", "folder", "file.json"])
def test_links_and_files_of_others_in_shared_folders_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    shared, precious = tmp_path / "shared", tmp_path / "out.json"
    shared.mkdir()
    precious.write_text("precious", "utf-8")
    (shared / "out.json").symlink_to(precious)
    (shared / "folder").symlink_to(tmp_path)
    (shared / "file.json").write_text("of somebody else", "utf-8")
    path = shared / planted / "out.json" if planted == "folder" else shared / planted
    give_away(monkeypatch, shared / planted)
    files.check_writable(path, "--json")  # only the user can write to the folder
    shared.chmod(0o1777)
    for write in (files.check_writable, files.write_output):
        with pytest.raises(InputError) as caught:
            write(path, "--json")
        assert caught.value.code.value == "file-not-writable"
    assert precious.read_text("utf-8") == "precious"
    assert sorted(entry.name for entry in shared.iterdir()) == ["file.json", "folder", "out.json"]


@pytest.mark.parametrize("kind", ["device", "loop", "protected", "pipe"])
def test_what_must_not_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path / kind
    if kind == "loop":
        path.symlink_to(path)
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "protected":
        path.write_text("old", "utf-8")
        monkeypatch.setattr(os, "access", lambda path, wanted: wanted != os.W_OK)  # root may write anything
    before = path.lstat()
    for command in ("rules docs", "recommend --model cnn", "list"):
        result = optadvise(*command.split(), "-o", str(path))
        assert (result.code, result.error) == (2, "file-not-writable"), command
        assert result.failure is not None
        assert result.failure.option == "--output"
    assert path.lstat().st_ino == before.st_ino


def test_names_of_the_maximum_length_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 255)
    files.check_writable(file, "--json")
    files.write_output(file, "new")
    assert file.read_text("utf-8") == "new"


def test_output_is_checked_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(*arguments: object) -> None:
        pytest.fail("computed in spite of an output that cannot be written")

    for module, name in ((doctor, "examine_machine"), (rule_tests, "run_tests"), (rule_folders, "load_catalog")):
        monkeypatch.setattr(module, name, compute)
    for command in ("doctor", "rules check", "rules test"):
        result = optadvise(*command.split(), "-o", "/dev/null/out")
        assert (result.code, result.error) == (2, "file-not-writable"), command


@pytest.mark.parametrize(
    "command",
    [
        "bench adamw --json A --report A",
        "bench adamw --csv A --plot A",
        "sweep grid.yaml --json A --plot A",
        "sweep grid.yaml --markdown A --json B",
        "compare x y --json A --markdown A",
        "compare x y --json A --plot A",
        "verify adamw --json A --markdown B",
        "trajectories --plot A --animate A",
        "estimate --params 7B -o A --plot A",
        "recommend --model cnn -o A --report A",
        "schedule cosine --output A --plot A",
    ],
)
def test_two_outputs_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """`B` is a link to `A`."""
    monkeypatch.chdir(tmp_path)
    suffix = ".html" if "--report" in command else ".gif" if "--animate" in command else ".png"
    (tmp_path / "there").mkdir()
    Path("link").symlink_to("there")
    words = {"A": f"there/out{suffix}", "B": f"link/out{suffix}"}
    result = optadvise(*(words.get(word, word) for word in command.split()))
    assert (result.code, result.error) == (2, "wrong-file-type" if "--animate" in command else "option-conflict")
    assert list((tmp_path / "there").iterdir()) == []


def test_result_is_printed_although_a_file_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats = outputs.ResultFormats(encode_json=str, render_markdown=str, print_text=print)
    for as_json, printed in ((False, "measured\n"), (True, "")):  # the error is a JSON object of its own
        with pytest.raises(InputError) as caught:
            outputs.show_result("measured", formats, {"--json": tmp_path / "gone" / "out"}, as_json=as_json)
        assert (caught.value.option, capsys.readouterr().out) == ("--json", printed)


# -- cache and evidence ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the cache, which does not exist."""
    folder = tmp_path / "new" / "cache"
    monkeypatch.setenv("OPTADVISE_CACHE_DIR", str(folder))
    return folder


def test_cache_folder_is_private_and_keeps_foreign_files(folder: Path) -> None:
    earlier = os.umask(0)
    try:
        cache._write_entry(KEY, [1])
    finally:
        os.umask(earlier)
    assert (mode(folder), mode(folder.parent)) == (0o700, 0o700)
    foreign = {folder / name for name in (f"{KEY[:39]}.json", "a-1.json", "package-lock.json", "rules-ab.json")}
    foreign |= {folder / f"rules-{number:034x}.json" for number in range(40)}
    for file in foreign:
        file.write_text(f"{file.stem}0 no entry", "utf-8")
    for file in (*foreign, *folder.iterdir()):
        os.utime(file, (1, 1))
    keys = [f"rules-f{number:033x}{0:094x}" for number in range(32)]
    for key in keys:
        cache._write_entry(key, [2])
    assert foreign <= set(folder.iterdir())
    assert cache._read_entry(keys[-1], list[int]) == [2]
    assert cache._read_entry(KEY, list[int]) is None  # the oldest entry


@pytest.fixture(params=["others can write", "owner", "link"])
def shared_folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that other users can change."""
    folder = tmp_path / "shared"
    if request.param == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to("elsewhere")
    else:
        folder.mkdir()
    if request.param == "others can write":
        folder.chmod(0o1777)
    else:
        give_away(monkeypatch, folder)
    return folder


def test_cache_that_others_can_change_is_not_used(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTADVISE_CACHE_DIR", str(shared_folder))
    planted = shared_folder / cache._name_entry(KEY)
    planted.write_bytes(cache._make_header(KEY, b"[1]") + b"\n[1]")
    with pytest.warns(OptadviseWarning) as caught:
        cache._write_entry(KEY, [2])
    assert cache._read_entry(KEY, list[int]) is None
    assert len(caught) == 1
    assert [file.name for file in shared_folder.iterdir()] == [planted.name]


@pytest.mark.parametrize("level", [".", "evidence"])
def test_evidence_that_others_can_change_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(tmp_path / "data"))
    store.save_audit(FINDING)
    catalog = load()
    assert store.find_evidence(catalog, catalog.optimizer("adamw")).audits == (FINDING,)
    (tmp_path / "data" / level).chmod(0o770)
    with pytest.warns(OptadviseWarning):
        assert store.find_evidence(catalog, catalog.optimizer("adamw")).audits == ()
    private_files._warn_once.cache_clear()
    result = optadvise("recommend", "--model", "cnn")
    assert (result.code, len(result.err.splitlines())) == (0, 1), result.err
    with pytest.raises(PermissionError):
        store.save_audit(FINDING)


@pytest.mark.parametrize("folder", ["/proc/none", "/dev/null/none", None])
def test_answers_need_neither_cache_nor_evidence(
    monkeypatch: pytest.MonkeyPatch, folder: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """None: neither the folders nor a home folder are known."""

    def find_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", find_home)
    for name in ("OPTADVISE_CACHE_DIR", "OPTADVISE_DATA_DIR"):
        monkeypatch.delenv(name) if folder is None else monkeypatch.setenv(name, folder)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, "relative")  # the specification says to ignore relative paths
    for command in ("recommend --model cnn", "estimate --params 7B", "show adamw"):
        result = optadvise(*command.split())
        assert (result.code, result.err) == (0, ""), command
    result = optadvise("compare", "main", "other")
    assert (result.code, result.error) == (2, "file-not-found")
    result = optadvise("bench", "adamw", "--save", "main")
    assert (result.code, result.error) == (2, "file-not-writable")
    outputs.save_evidence(lambda: store.save_audit(FINDING))
    assert capsys.readouterr().err.startswith("optadvise: warning: ")


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("compare a.json b.json --json a.json", "--json"),
        ("compare a.json b.json --markdown ./b.json", "--markdown"),
        ("bench --merge a.json b.json --json b.json", "--json"),
        ("bench --from rec.json --json rec.json", "--json"),
        ("sweep sweep.yaml --markdown sweep.yaml", "--markdown"),
        ("sweep sweep.yaml --json sweep/adamw.json", "--json"),
        ("recommend --hf-config config.json -o config.json", "--output"),
        ("estimate --hf-config config.json -o config.json", "--output"),
        ("rules docs --rules pack -o pack/warn.yaml", "--output"),
        ("recommend --rules pack -o pack/warn.yaml", "--output"),
    ],
)
def test_no_output_replaces_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, option: str) -> None:
    monkeypatch.chdir(tmp_path)
    recommendation = optadvise("recommend", "--json").out
    contents = {
        "a.json": json.dumps(result_data()), "b.json": json.dumps(result_data(seed=5)), "rec.json": recommendation,
        "sweep.yaml": "optimizers: [adamw]\n", "sweep/adamw.json": "{}", "pack/warn.yaml": "table: warn\nrules: []\n",
        "config.json": '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}',
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    done = optadvise(*line.split())
    assert done.failure is not None
    assert (done.code, done.error, done.failure.option) == (2, "option-conflict", option), done.err
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in contents} == contents


def test_settings_of_matplotlib_in_the_folder_are_not_read(tmp_path: Path) -> None:
    """It looks for them when it is imported."""
    os.mkfifo(tmp_path / "matplotlibrc")
    code = "from optadvise.render.plots.figures import check_picture, Path; check_picture(Path('a.png'), '--plot')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, timeout=60)


def test_a_project_of_another_user_in_a_shared_folder_has_no_rule_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.optadvise]\nrules = ["missing"]\n', encoding="utf-8")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert rule_folders.list_folders(None)
    give_away(monkeypatch, tmp_path / "pyproject.toml")
    assert rule_folders.list_folders(None)  # such as in a container
    tmp_path.chmod(0o1777)
    assert not rule_folders.list_folders(None)
