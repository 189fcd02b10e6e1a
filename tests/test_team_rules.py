"""A team's own rules over those that are shipped, and the questions of `recommend --interactive`."""

from __future__ import annotations

import io
import json
import os
import shlex
from pathlib import Path
from random import Random
from typing import Any

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.rule_analysis.interview import Interview
from tests.cli import optadvise
from tests.conftest import few


def layer(folder: Path, name: str, **files: str) -> Path:
    for file, text in files.items():
        place = folder / name / file.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return folder / name


def policy(threshold: int) -> str:
    return (
        f'policy:\n  amend:\n    - rule: CON080\n      when: {{batch_size: ">= {threshold}"}}\n      because: ours\n'
        f"      tests: [{{given: {{batch_size: {threshold}, model: transformer}}, expect: {{concern: large-batch}}}}]\n"
    )


def advice(*arguments: str) -> dict[str, Any]:
    said = optadvise("recommend", "--model", "transformer", "--json", *arguments)
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_the_project_the_environment_and_the_command_line_add_up_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [layer(tmp_path, f"l{n}", policy=policy(n)) for n in (7000, 5000, 3000)]
    (tmp_path / "pyproject.toml").write_text('[tool.optadvise]\nrules = ["l7000"]\n', encoding="utf-8")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert advice("--batch-size", "7000")["optimizer"]["id"] == "lamb"
    assert advice("--batch-size", "6999")["optimizer"]["id"] == "adamw"
    monkeypatch.setenv("OPTADVISE_RULES", os.pathsep.join([str(folders[1])]))
    assert advice("--batch-size", "5000")["optimizer"]["id"] == "lamb"
    found = advice("--batch-size", "3000", "--rules", str(folders[2]))
    assert found["optimizer"]["id"] == "lamb"
    assert found["rules"]["layers"] == ["shipped", *map(str, folders)]
    assert found["trace"][0]["layer"] == str(folders[2])


def test_rows_are_added_replaced_ordered_and_disabled(tmp_path: Path) -> None:
    row = (
        "table: concern\nrules:\n  - id: OUR010\n    name: ours\n    before: CON090\n    when: {gpus: \">= 64\"}\n"
        "    then: {concern: large-batch}\n    because: ours\n    cite: [measured]\n"
        "    tests: [{given: {gpus: 64, model: transformer}, expect: {concern: large-batch}}]\n"
    )  # fmt: skip
    replaced = (
        "table: warn\nrules:\n  - id: WRN040\n    name: ours\n    when: {model: transformer}\n"
        "    then: {level: info, text: Our warmup.}\n    cite: [measured]\n"
        "    tests: [{given: {model: transformer}, expect: {fires: true}}]\n"
    )
    ruled_out = "policy:\n  disable: [{rule: WRN100, because: ours}, {optimizer: lion, because: not here}]\n"
    ours = layer(tmp_path, "ours", decide__concern=row, warn=replaced, policy=ruled_out)
    for command in ("check", "test"):
        assert optadvise("rules", command, "--rules", str(ours)).code == 0
    assert advice("--gpus", "64", "--rules", str(ours))["optimizer"]["id"] == "lamb"
    found = advice("--vram", "24GB", "--rules", str(ours))
    warnings = {warning["id"]: warning for warning in found["warnings"]}
    assert warnings["WRN040"]["text"] == "Our warmup."
    assert warnings["WRN040"]["layer"] == str(ours)
    assert "WRN100" not in warnings
    assert "lion" not in {other["id"] for other in found["alternatives"]}
    refused = optadvise("recommend", "--optimizer", "Lion", "--rules", str(ours))
    assert (refused.code, refused.out, refused.error) == (2, "", ErrorCode.DISABLED_OPTIMIZER)
    assert "not here" in refused.err


def test_a_layer_that_contradicts_itself_answers_nothing(tmp_path: Path) -> None:
    text = (
        "table: choose_optimizer\nrules:\n  - id: OUR010\n    name: ours\n    when: {concern: ordinary}\n"
        "    then: {optimizer: lion}\n    because: ours\n    cite: [measured]\n"
        "    tests: [{given: {concern: ordinary, model: unknown}, expect: {optimizer: lion}}]\n"
    )
    ours = layer(tmp_path, "ours", decide__ours=text)
    for line in ("recommend --model gan", "estimate --params 7B", "rules docs"):
        said = optadvise(*line.split(), "--rules", str(ours))
        assert (said.code, said.out, len(said.err.splitlines())) == (3, "", 1)
        assert f"{ours}/decide/ours.yaml:3:5" in said.err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[tool.optadvise\n", ErrorCode.INVALID_SYNTAX), ("[tool.optadvise]\nrule = []\n", ErrorCode.UNKNOWN_KEY),
        ("[tool.optadvise]\nrules = 'x'\n", ErrorCode.INVALID_ENTRY),
        ("[tool.optadvise]\nrules = ['gone']\n", ErrorCode.FILE_NOT_FOUND),
    ],
)  # fmt: skip
def test_a_wrong_project_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: ErrorCode
) -> None:
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = optadvise("recommend")
    assert (result.code, result.out, len(result.err.splitlines()), result.error) == (2, "", 1, code)


def test_what_init_writes_passes(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    assert optadvise("rules", "init", folder).code == 0
    for command in ("check", "test"):
        assert optadvise("rules", command, "--rules", folder).code == 0
    assert optadvise("rules", "init", folder).code == 2


def test_tests_that_fail_or_are_not_there_are_a_no(tmp_path: Path) -> None:
    text = (
        "table: warn\nrules:\n  - id: OUR010\n    name: ours\n    when: {model: cnn}\n"
        "    then: {level: info, text: Ours.}\n    cite: [measured]\n"
        "    tests: [{given: {model: cnn}, expect: {fires: false}}]\n"
    )
    said = optadvise("rules", "test", "--rules", str(layer(tmp_path, "ours", warn=text)))
    assert said.code == 1
    assert "OUR010 applies" in said.out
    assert "OUR010 has no example in which it fires" in said.out
    assert "OUR010 fired in no test" not in said.out


def _follow(rules: CompiledRules, random: Random) -> tuple[Interview, int]:
    """Answer at random until nothing is asked any more."""
    interview, asked = Interview(rules, {}), 0
    while (name := interview.choose_question()) is not None:
        asked += 1
        before = interview.list_possible()
        values: list[Any] = [10**8, 7 * 10**9] if name == "params" else [8 * 2**30, 80 * 2**30]
        axis = rules.axes[name]
        if axis.choices is not None:
            values = [word == "true" if axis.choices == ("true", "false") else word for word in axis.choices]
        elif name == "batch_size":
            values = [64, 2048, 16384]
        try:
            interview.add_inputs({name: random.choice(values)}) if random.random() < 0.6 else interview.skip(name)
        except InputError:
            interview.skip(name)
        assert interview.list_possible() <= before
    return interview, asked


@pytest.mark.parametrize("seed", few(1, range(4)))
def test_questions_end_with_what_is_recommended(rules: CompiledRules, seed: int) -> None:
    random = Random(seed)
    for _ in range(15):
        interview, asked = _follow(rules, random)
        chosen = advise(rules, interview.inputs).optimizer.id
        assert chosen in interview.list_possible()
        assert asked <= 12


def test_the_command_line_that_is_told_gives_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("full\ncnn\nnonsense\nno\n\n64\n\nbalanced\nhigh\n"))
    said = optadvise("recommend", "--interactive", "--json")
    assert said.code == 0
    (line,) = [text for text in said.err.splitlines() if text.startswith("the same without questions: ")]
    again = optadvise(*shlex.split(line.split(": ", 1)[1])[1:], "--json")
    assert json.loads(again.out)["optimizer"] == json.loads(said.out)["optimizer"]


def test_an_interview_ends_where_the_input_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    said = optadvise("recommend", "--interactive", "--json")
    assert (said.code, json.loads(said.out)["optimizer"]["id"]) == (0, "adamw")
