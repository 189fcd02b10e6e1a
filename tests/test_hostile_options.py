"""Every option and argument of every command with values that nobody should type: one line and a documented code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer

from optadvise.benchmark.sweep_records import Cell, Outcome
from optadvise.cli.app import COMMANDS, build
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.core.similarity import find_similar
from optadvise.rulebase.catalog import Catalog
from optadvise.verify.audit_run import AuditEntry, judge_audit
from optadvise.verify.records import AuditResult, MissingAnswer
from tests.cli import CommandResult, optadvise
from tests.conftest import ROOT, rotated

# Arguments with which a command gets as far as the option.
ARGUMENTS = {
    "schedule": ["wsd"], "bench": ["adamw"], "compare": ["a.json", "b.json"], "sweep": ["sweep.yaml"],
    "trajectories": ["adamw"], "verify": ["adamw"], "show": ["adamw"], "rules diff": ["-", "-"], "rules init": ["new"],
}  # fmt: skip
VALUES = [
    "", " ", "a\0b", "\udcff", "a" * 5000, "9" * 400, "1e999", "nan", "inf", "-1", "0", "-", "--json", "--", "folder",
    "loop", "text.txt", "/dev/zero/x", "é\x1b[31m\n", "%s{0}$(x)'\"`", "a.b:c", "..",
]  # fmt: skip
LONG = (  # what takes seconds or minutes
    "optadvise.benchmark.request.measure", "optadvise.benchmark.sweep.run_sweep",
    "optadvise.verify.audit_run.run_audits",
    "optadvise.fake_tensors.estimate.estimate_module", "optadvise.diagnostics.doctor.examine_machine",
    "optadvise.rule_analysis.check.prove_rules", "optadvise.rule_analysis.rule_tests.run_tests",
)  # fmt: skip


def stop(*arguments: Any, **options: Any) -> NoReturn:
    raise CannotRunHereError("not in this test", code=ErrorCode.UNSUPPORTED)


def command_lines(value: str) -> Iterator[list[str]]:
    """Yield a command line for each option and argument of each command."""
    for command in COMMANDS:
        built: Any = typer.main.get_command(build([command]))
        context = built.make_context("optadvise", [command])
        found = built.get_command(context, command)
        for name, each in getattr(found, "commands", {"": found}).items():
            line = [command, *filter(None, [name])]
            arguments = ARGUMENTS.get(" ".join(line), [])
            for parameter in each.params:
                if parameter.param_type_name == "argument":
                    yield [*line, value, *arguments[1:]]
                elif not parameter.is_flag:
                    yield [*line, *arguments, parameter.opts[0], value]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text.txt").write_text("x: [\n", encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text("optimizers: [adamw]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in LONG:
        monkeypatch.setattr(name, stop)
    monkeypatch.setitem(sys.modules, "torch", None)
    return tmp_path


def check(result: CommandResult, line: list[str]) -> None:
    assert result.code in range(6), line
    if result.code > 1:
        assert result.failure is not None, line
        assert len(result.err.splitlines()) == 1, line
        assert len(result.err) < 1000, line
        assert result.out == "" or json.loads(result.out)["kind"] == "error", line


@pytest.mark.parametrize("value", rotated(1, VALUES), ids=lambda value: ascii(value)[:20])
def test_every_option_rejects_hostile_values_in_one_line(folder: Path, value: str) -> None:
    for line in command_lines(value):
        check(optadvise(*line), line)


@pytest.mark.parametrize(
    ("line", "error", "option", "value"),
    [
        ("recommend --model", "missing-option", "--model", None),
        ("recommend --model --json", "missing-option", "--model", "--json"),
        ("recommend --optimizer -o x.txt", "missing-option", "--optimizer", "-o"),
        ("rules schema --output", "missing-option", "--output", None),
        ("recommend --output=", "invalid-value", "--output", ""),
        ("recommend --json a.json --output b.json", "option-conflict", "--json", "a.json"),
        ("list -o b.json --json a.json", "option-conflict", "--json", "a.json"),
        ("bench adamw --threads 1e9", "out-of-range", "--threads", "1e9"),
        ("bench adamw --steps 1e9", "out-of-range", "--steps", "1e9"),
        ("bench adamw --rounds 1e9", "out-of-range", "--rounds", "1e9"),
        ("bench adamw --nproc 1e9", "out-of-range", "--nproc", "1e9"),
        ("bench adamw --timeout 1e300", "out-of-range", "--timeout", "1e+300"),
        ("verify adamw --timeout 1e300", "out-of-range", "--timeout", "1e+300"),
        ("estimate --params 1B --timeout 1e300", "out-of-range", "--timeout", "1e300"),
        ("schedule wsd --lr one", "invalid-number", "--lr", "one"),
        ("recommend --rules text.txt", "file-not-found", "--rules", "text.txt"),
    ],
)
def test_values_are_checked_before_anything_is_computed(
    folder: Path, line: str, error: str, option: str, value: str | None
) -> None:
    result = optadvise(*line.split())
    check(result, line.split())
    assert result.failure is not None
    assert (result.code, result.error, result.failure.option, result.failure.value) == (2, error, option, value)
    assert not {"a.json", "b.json"} & {file.name for file in folder.iterdir()}


def test_an_error_of_the_system_has_one_line_and_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(option: object) -> NoReturn:
        raise OSError(36, "File name too long", "a")

    monkeypatch.setattr("optadvise.rule_analysis.rule_folders.load_catalog", fail)
    result = optadvise("list", "--json")
    assert (result.code, result.error, json.loads(result.out)["value"]) == (2, "file-unreadable", "a")


def test_a_missing_value_lists_the_choices() -> None:
    assert all(name in optadvise("recommend", "--model").err for name in ("transformer", "recommend --help"))


@pytest.mark.parametrize(
    ("word", "similar"),
    [
        ("adamx", ["adam", "adamw"]),
        ("adamww", ["adamw"]),
        ("adafctor", ["adafactor"]),
        ("sdg", ["sgd"]),
        ("paged", ["paged-adamw8bit", "paged-adamw32bit"]),
        ("qqqq", []),
        ("a" * 10**6, []),
    ],
)
def test_suggestions(catalog: Catalog, word: str, similar: list[str]) -> None:
    found = find_similar(word, catalog.optimizer_ids, {"ada-factor": "adafactor"})
    assert found[: len(similar)] == similar
    assert len(found) <= (3 if similar else 0)


def test_a_comment_in_pyproject_is_not_a_section(folder: Path) -> None:
    for text, code in (("# [tool.optadvise]", 0), ("[tool]\noptadvise = 1 # [tool.optadvise]", 2)):
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
        assert optadvise("list").code == code


def test_a_class_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def miss(entries: Sequence[AuditEntry], **options: Any) -> Iterator[AuditResult]:
        yield judge_audit(entries[0], MissingAnswer("no module"))

    monkeypatch.setattr("optadvise.verify.audit_run.run_audits", miss)
    result = optadvise("verify", "--import", "nowhere.Mine", "--as", "adamw")
    assert (result.code, result.error, result.out) == (4, "missing-package", "")
    assert len(result.err.splitlines()) == 1


def test_a_sweep_without_any_result_fails_like_its_first_cell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Iterator[Outcome]:
        error = InputError("no such workload", code=ErrorCode.INVALID_WORKLOAD, option="--workload")
        yield Outcome(cell=Cell("adamw", "adamw", {}, {}), result=None, reason=str(error), error=error)

    monkeypatch.setattr("optadvise.benchmark.sweep.run_sweep", fail)
    result = optadvise("sweep", "sweep.yaml")
    assert (result.code, result.error, result.out) == (2, "invalid-workload", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("line", "code", "lines"),
    [
        ("recommend 2> /dev/full", 0, 0),
        ("recommend --params x 2> /dev/full", 2, 0),
        ("recommend --params x --json > /dev/full", 2, 1),
        ("> /dev/full", 4, 1),
        ("recommend --json > /dev/full", 4, 1),
        ("recommend --params x 2>&-", 2, 0),
        ("list >&-", 0, 0),
    ],
)
def test_exit_code_with_streams_that_cannot_be_written(line: str, code: int, lines: int) -> None:
    command = ["sh", "-c", f"{sys.executable} -m optadvise {line}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, lines)
    assert "optadvise:" not in done.stdout


def test_exit_code_when_the_reader_of_a_pipe_has_exited() -> None:
    command = [sys.executable, "-m", "optadvise", "recommend", "--params", "x", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 2


def test_sigterm_ends_a_command_at_once() -> None:
    command = [sys.executable, "-m", "optadvise", "recommend", "--interactive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.terminate()
        assert process.wait(10) == 130
