"""Command line of `optadvise compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cli import optadvise
from tests.results import SCHEMAS, result, saved


@pytest.mark.parametrize(("bound", "code"), [("1.2x", 0), ("1.05x", 1), ("1.1x", 5)])
def test_exit_codes(tmp_path: Path, bound: str, code: int) -> None:
    base, new = saved(tmp_path, "base.json", result()), saved(tmp_path, "new.json", result(2.2, seed=5))
    command = optadvise("compare", base, new, "--require", f"optimizer_seconds <= {bound}")
    assert command.code == code
    assert command.err == ""


def test_tables_are_aligned_in_80_columns(tmp_path: Path) -> None:
    base = result(2e-5)
    new = result(3000.0, noise=0.9, seed=5)
    files = saved(tmp_path, "base.json", base), saved(tmp_path, "a-[bold]-new.json", new)
    command = optadvise("compare", *files, "--require", "optimizer_seconds <= 1.05x")
    lines = command.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in command.out
    assert files[1].split("/")[-1] in "".join(lines)  # a long path is wrapped
    steps = [line for line in lines if line.startswith("  optimizer step")]
    assert len(steps) == 2
    assert len({line.index("x ") for line in steps}) == 1
    assert steps[0].split()[2:4] == ["5.001", "µs"]
    command = optadvise("compare", files[0], files[0])
    assert next(line.split() for line in command.out.splitlines() if line.startswith("  state B/param")) == [
        "state", "B/param", "8.000", "8.000", "1.000x",
    ]  # fmt: skip


def test_json_and_markdown_outputs(tmp_path: Path) -> None:
    files = saved(tmp_path, "base.json", result()), saved(tmp_path, "new.json", result(seed=5, complete=False))
    command = optadvise("compare", *files, "--json", "-", "--markdown", str(tmp_path / "out.md"))
    assert command.code == 0
    data = json.loads(command.out)
    jsonschema.validate(data, SCHEMAS["comparison"])
    assert [data["base"]["name"], data["new"]["name"]] == list(files)
    assert command.err == f"optadvise: warning: {data['warnings'][0]}\n"
    command = optadvise("compare", *files, "--markdown", "-", "--require", "state_bytes <= 1x")
    assert (tmp_path / "out.md").read_text(encoding="utf-8").split("\n\n")[0] == command.out.split("\n\n")[0]
    rows = [line for line in command.out.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}
    assert "- pass: state_bytes <= 1x: lion 1x\n" in command.out
    assert "- warning: NEW was interrupted" in command.out


@pytest.mark.parametrize(
    ("content", "exit_code", "error"),
    [
        (None, 2, "file-not-found"),
        ("{", 3, "invalid-syntax"),
        ("[]", 3, "wrong-file-type"),
        ({"schema_version": 1, "kind": "recommendation"}, 3, "wrong-file-type"),
        ({"schema_version": 2, "kind": "bench", "arms": []}, 3, "invalid-entry"),
        ({"schema_version": 1, "kind": "bench", "arms": [{}]}, 3, "invalid-entry"),
    ],
)
def test_invalid_result_files(tmp_path: Path, content: Any, exit_code: int, error: str) -> None:
    file = str(tmp_path / "none.json") if content is None else saved(tmp_path, "file.json", content)
    good = saved(tmp_path, "good.json", result())
    for pair in ((file, good), (good, file)):
        command = optadvise("compare", *pair)
        assert command.failure is not None
        assert (command.code, command.error) == (exit_code, error)
        assert file in (command.failure.value, command.failure.where)
        assert len(command.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "option"),
    [
        (["GOOD", "--require", "speed <= 1x"], "unknown-choice", "--require"),
        (["GOOD", "--json", "-", "--markdown", "-"], "option-conflict", None),
        (["GOOD", "--json", "none/a.json"], "file-not-writable", "--json"),
        (["GOOD", "--markdown", "."], "file-not-writable", "--markdown"),
        ([], "missing-option", None),
        (["no/such"], "file-not-found", None),
    ],
)
def test_invalid_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: str, option: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    good = saved(tmp_path, "good.json", result())
    command = optadvise("compare", good, *(good if argument == "GOOD" else argument for argument in arguments))
    assert command.failure is not None
    assert (command.code, command.error) == (2, error)
    if option is not None:
        assert command.failure.option == option
    assert len(command.err.splitlines()) == 1


def test_real_result_is_saved_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(tmp_path))
    command = optadvise(*"bench adamw8bit --steps 2 --rounds 2 --threads 1 --save main".split())
    assert command.code == 0, command.err
    saved_result = json.loads((tmp_path / "results" / "main.json").read_text(encoding="utf-8"))
    jsonschema.validate(saved_result, SCHEMAS["bench"])
    requirements = ["--require", "state_bytes <= 1x", "--require", "state_bytes_per_parameter <= 2.1"]
    command = optadvise("compare", "main", "main", *requirements, "--json", "-")
    assert command.code == 0, command.err
    data = json.loads(command.out)
    jsonschema.validate(data, SCHEMAS["comparison"])
    assert {r["ratio"] for r in data["ratios"]} == {1}
    assert any(r["relative_to_control"] for r in data["ratios"])
    saved_result["arms"][0]["state_bytes"] *= 2
    saved(tmp_path, "larger.json", saved_result)
    assert optadvise("compare", "main", str(tmp_path / "larger.json"), *requirements).code == 1
