"""Rule layers over the shipped rules, and `recommend --interactive`."""

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
from tests.conftest import rotated


def layer(folder: Path, name: str, **files: str) -> Path:
    for file, text in files.items():
        path = folder / name / file.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return folder / name


def policy(threshold: int) -> str:
    return (
        f'policy:\n  amend:\n    - rule: CON081\n      when: {{batch_size: ">= {threshold}"}}\n      because: ours\n'
        f"      tests: [{{given: {{batch_size: {threshold}, model: transformer, architecture: encoder}}, "
        "expect: {concern: large-batch}}]\n"
    )


def advice(*arguments: str) -> dict[str, Any]:
    result = optadvise("recommend", "--model", "bert", "--json", *arguments)
    assert result.code == 0, result.err
    document: dict[str, Any] = json.loads(result.out)
    return document


def test_layers_of_project_environment_and_command_line_apply_in_order(
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
    document = advice("--batch-size", "3000", "--rules", str(folders[2]))
    assert document["optimizer"]["id"] == "lamb"
    assert document["rules"]["layers"] == ["shipped", *map(str, folders)]
    assert document["trace"][0]["layer"] == str(folders[2])


def test_layer_adds_replaces_orders_and_disables_rows(tmp_path: Path) -> None:
    row = (
        "table: concern\nrules:\n  - id: OUR010\n    name: ours\n    before: CON090\n    when: {gpus: \">= 64\"}\n"
        "    then: {concern: large-batch}\n    because: ours\n    cite: [measured]\n"
        "    tests: [{given: {gpus: 64, model: transformer}, expect: {concern: large-batch}}]\n"
    )  # fmt: skip
    replacement = (
        "table: warn\nrules:\n  - id: WRN040\n    name: ours\n    when: {model: transformer}\n"
        "    then: {level: info, text: Our warmup.}\n    cite: [measured]\n"
        "    tests: [{given: {model: transformer}, expect: {fires: true}}]\n"
    )
    disabling = "policy:\n  disable: [{rule: WRN100, because: ours}, {optimizer: lion, because: not here}]\n"
    ours = layer(tmp_path, "ours", decide__concern=row, warn=replacement, policy=disabling)
    for command in ("check", "test"):
        assert optadvise("rules", command, "--rules", str(ours)).code == 0
    assert advice("--gpus", "64", "--rules", str(ours))["optimizer"]["id"] == "lamb"
    document = advice("--vram", "24GB", "--rules", str(ours))
    warnings = {warning["id"]: warning for warning in document["warnings"]}
    assert warnings["WRN040"]["text"] == "Our warmup."
    assert warnings["WRN040"]["layer"] == str(ours)
    assert "WRN100" not in warnings
    assert "lion" not in {other["id"] for other in document["alternatives"]}
    rejected = optadvise("recommend", "--optimizer", "Lion", "--rules", str(ours))
    assert (rejected.code, rejected.out, rejected.error) == (2, "", ErrorCode.DISABLED_OPTIMIZER)


def test_contradictory_layer_is_an_error(tmp_path: Path) -> None:
    text = (
        "table: choose_optimizer\nrules:\n  - id: OUR010\n    name: ours\n    when: {concern: ordinary}\n"
        "    then: {optimizer: lion}\n    because: ours\n    cite: [measured]\n"
        "    tests: [{given: {concern: ordinary, model: unknown}, expect: {optimizer: lion}}]\n"
    )
    ours = layer(tmp_path, "ours", decide__ours=text)
    for line in ("recommend --model gan", "estimate --params 7B", "rules docs"):
        result = optadvise(*line.split(), "--rules", str(ours))
        assert (result.code, result.out, len(result.err.splitlines())) == (3, "", 1)
        assert f"{ours}/decide/ours.yaml:3:5" in result.err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[tool.optadvise\n", ErrorCode.INVALID_SYNTAX), ("[tool.optadvise]\nrule = []\n", ErrorCode.UNKNOWN_KEY),
        ("[tool.optadvise]\nrules = 'x'\n", ErrorCode.INVALID_ENTRY),
        ("[tool.optadvise]\nrules = ['gone']\n", ErrorCode.FILE_NOT_FOUND),
    ],
)  # fmt: skip
def test_invalid_project_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: ErrorCode
) -> None:
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = optadvise("recommend")
    assert (result.code, result.out, len(result.err.splitlines()), result.error) == (2, "", 1, code)


def test_folder_of_rules_init_is_sound(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    assert optadvise("rules", "init", folder).code == 0
    for command in ("check", "test"):
        assert optadvise("rules", command, "--rules", folder).code == 0
    assert optadvise("rules", "init", folder).code == 2


def test_failing_or_missing_rule_tests_exit_with_1(tmp_path: Path) -> None:
    text = (
        "table: warn\nrules:\n  - id: OUR010\n    name: ours\n    when: {model: cnn}\n"
        "    then: {level: info, text: Ours.}\n    cite: [measured]\n"
        "    tests: [{given: {model: cnn}, expect: {fires: false}}]\n"
    )
    result = optadvise("rules", "test", "--rules", str(layer(tmp_path, "ours", warn=text)), "--json")
    assert result.code == 1
    report = json.loads(result.out)
    assert [failure["rule"] for failure in report["failures"]] == ["OUR010"]
    assert report["untested"] == ["OUR010"]
    assert "OUR010" not in report["silent"]


def _follow(rules: CompiledRules, random: Random) -> tuple[Interview, int]:
    """Answer at random until no question is left; return the interview and the number of questions."""
    interview, count = Interview(rules, {}), 0
    while (name := interview.choose_question()) is not None:
        count += 1
        before = interview.list_possible()
        values: list[Any] = [10**8, 7 * 10**9] if name == "params" else [8 * 2**30, 80 * 2**30]
        axis = rules.axes[name]
        if axis.choices is not None:
            values = [choice == "true" if axis.choices == ("true", "false") else choice for choice in axis.choices]
        elif name == "batch_size":
            values = [64, 2048, 16384]
        try:
            interview.add_inputs({name: random.choice(values)}) if random.random() < 0.6 else interview.skip(name)
        except InputError:
            interview.skip(name)
        assert interview.list_possible() <= before
    return interview, count


@pytest.mark.usefixtures("without_sensitivities")
@pytest.mark.parametrize("seed", rotated(1, range(15)))
def test_interview_keeps_the_recommended_optimizer_possible(rules: CompiledRules, seed: int) -> None:
    random = Random(seed)
    for _ in range(4):
        interview, count = _follow(rules, random)
        optimizer = advise(rules, interview.inputs).optimizer.id
        assert optimizer in interview.list_possible()
        assert count <= 12


def test_printed_command_line_gives_the_same_recommendation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("full\ncnn\nnonsense\nno\n\n64\n\nbalanced\nhigh\n"))
    result = optadvise("recommend", "--interactive", "--json")
    assert result.code == 0
    (line,) = [text for text in result.err.splitlines() if text.startswith("equivalent command: optadvise ")]
    repeated = optadvise(*shlex.split(line.split(": ", 1)[1])[1:], "--json")
    assert json.loads(repeated.out)["optimizer"] == json.loads(result.out)["optimizer"]


def test_interview_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    result = optadvise("recommend", "--interactive", "--json")
    assert (result.code, json.loads(result.out)["optimizer"]["id"]) == (0, "adamw")
