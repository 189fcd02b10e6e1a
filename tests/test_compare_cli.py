"""`optadvise compare` as a person types it."""

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
    said = optadvise("compare", base, new, "--require", f"optimizer_seconds <= {bound}")
    assert said.code == code
    assert said.err == ""


def test_a_page_of_80_columns_has_every_cell_and_lines_up(tmp_path: Path) -> None:
    base = result(2e-5)
    new = result(3000.0, noise=0.9, seed=5)
    files = saved(tmp_path, "base.json", base), saved(tmp_path, "a-[bold]-new.json", new)
    said = optadvise("compare", *files, "--require", "optimizer_seconds <= 1.05x")
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in said.out
    assert files[1].split("/")[-1] in "".join(lines)  # a long path is folded
    steps = [line for line in lines if line.startswith("  step()")]
    assert len(steps) == 2
    assert len({line.index("x ") for line in steps}) == 1
    assert steps[0].split()[1:3] == ["5.001", "µs"]
    said = optadvise("compare", files[0], files[0])
    assert next(line.split() for line in said.out.splitlines() if line.startswith("  state B/param")) == [
        "state", "B/param", "8.000", "8.000", "1.000x",
    ]  # fmt: skip


def test_json_and_markdown_go_where_they_are_sent(tmp_path: Path) -> None:
    files = saved(tmp_path, "base.json", result()), saved(tmp_path, "new.json", result(seed=5, complete=False))
    said = optadvise("compare", *files, "--json", "-", "--markdown", str(tmp_path / "out.md"))
    assert said.code == 0
    data = json.loads(said.out)
    jsonschema.validate(data, SCHEMAS["comparison"])
    assert [data["base"]["name"], data["new"]["name"]] == list(files)
    assert said.err == f"optadvise: warning: {data['warnings'][0]}\n"
    said = optadvise("compare", *files, "--markdown", "-", "--require", "state_bytes <= 1x")
    assert (tmp_path / "out.md").read_text(encoding="utf-8").split("\n\n")[0] == said.out.split("\n\n")[0]
    rows = [line for line in said.out.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}
    assert "- pass: state_bytes <= 1x: lion 1\n" in said.out
    assert "- warning: NEW was interrupted" in said.out


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (None, 2, "no such result"),
        ("{", 3, "no JSON"),
        ("[]", 3, "no result of optadvise bench"),
        ({"schema_version": 1, "kind": "recommendation"}, 3, "no result of optadvise bench"),
        ({"schema_version": 2, "kind": "bench", "arms": []}, 3, "schema version 2"),
        ({"schema_version": 1, "kind": "bench", "arms": [{}]}, 3, "missing required field"),
    ],
)
def test_what_is_no_result_is_said_to_be_none(tmp_path: Path, content: Any, code: int, says: str) -> None:
    file = str(tmp_path / "none.json") if content is None else saved(tmp_path, "file.json", content)
    good = saved(tmp_path, "good.json", result())
    for pair in ((file, good), (good, file)):
        said = optadvise("compare", *pair)
        assert said.code == code
        assert says in said.err
        assert len(said.err.splitlines()) == 1


def test_wrong_command_lines(tmp_path: Path) -> None:
    good = saved(tmp_path, "good.json", result())
    for line in (["--require", "speed <= 1x"], ["--json", "-", "--markdown", "-"],
                 ["--json", str(tmp_path / "none" / "a.json")], ["--markdown", str(tmp_path)]):  # fmt: skip
        said = optadvise("compare", good, good, *line)
        assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert optadvise("compare", good).code == 2
    assert optadvise("compare", good, "no/such").code == 2


def test_a_real_measurement_is_saved_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(tmp_path))
    said = optadvise(*"bench adamw8bit --steps 2 --rounds 2 --threads 1 --save main".split())
    assert said.code == 0, said.err
    kept = json.loads((tmp_path / "results" / "main.json").read_text(encoding="utf-8"))
    jsonschema.validate(kept, SCHEMAS["bench"])
    gates = ["--require", "state_bytes <= 1x", "--require", "state_bytes_per_parameter <= 2.1"]
    said = optadvise("compare", "main", "main", *gates, "--json", "-")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    jsonschema.validate(data, SCHEMAS["comparison"])
    assert {r["ratio"] for r in data["ratios"]} == {1}
    assert any(r["relative_to_control"] for r in data["ratios"])
    kept["arms"][0]["state_bytes"] *= 2
    saved(tmp_path, "fat.json", kept)
    assert optadvise("compare", "main", str(tmp_path / "fat.json"), *gates).code == 1
