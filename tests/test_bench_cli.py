"""Command line of `optadvise bench`: tables, files, requirements and errors."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from optadvise.benchmark import runner
from optadvise.core.units import parse_count
from tests.bench import MINE, find_error_line, parse_result
from tests.cli import optadvise

# A tiny network, so that starting torch dominates the time.
QUICK = ("--workload", "mine:plain", "--rounds", "2", "--steps", "2", "--threads", "1")


def bench(*arguments: str) -> dict[str, Any]:
    """Return the result of a command line that must succeed."""
    command = optadvise("bench", *arguments, "--json", "-")
    assert command.code == 0, command.err
    return parse_result(command.out)


def test_result_has_candidate_control_and_ratios() -> None:
    result = bench(
        "adamw8bit", "--rounds", "2", "--steps", "2", "--threads", "1", "--batch-size", "2", "--seq-len", "16"
    )
    assert (result["kind"], result["schema_version"], result["complete"], result["verdict"]) == ("bench", 1, True, None)
    assert result["spec"]["workload"] == "transformer"
    assert (result["spec"]["rounds"], result["spec"]["steps"], result["spec"]["seq_len"]) == (2, 2, 16)
    assert {"python", "platform", "processor", "cores", "threads", "packages"} <= set(result["environment"])
    assert {"torch", "bitsandbytes"} == set(result["environment"]["packages"])
    candidate, control = result["arms"]
    assert (candidate["optimizer"], candidate["role"], candidate["status"]) == ("adamw8bit", "candidate", "ok")
    assert (control["optimizer"], control["role"], control["status"]) == ("adamw", "control", "ok")
    assert 2.0 < candidate["state_bytes_per_parameter"] < 2.1
    assert 8.0 <= control["state_bytes_per_parameter"] < 8.01
    assert all(len(arm["step_seconds"]["samples"]) == 4 for arm in result["arms"])
    ratios = {r["metric"]: r for r in result["ratios"]}
    assert ratios["optimizer_seconds"]["ratio"] > 1
    assert ratios["state_bytes"]["ratio"] == pytest.approx(candidate["state_bytes"] / control["state_bytes"])
    assert {(r["optimizer"], r["versus"]) for r in result["ratios"]} == {("adamw8bit", "adamw")}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the measurements of one real run of `bench adam`."""
    folder, recordings, real = tmp_path_factory.mktemp("recorded"), [], runner.run_arms
    (folder / "mine.py").write_text(MINE, encoding="utf-8")

    def record(*arguments: Any, **options: Any) -> Any:
        recordings.append(real(*arguments, **options))
        return recordings[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(runner, "run_arms", record)
        assert optadvise("bench", "adam", *QUICK).code == 0
    return recordings[0]


@pytest.fixture
def _replayed(recording: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the recorded measurements instead of measuring."""
    monkeypatch.setattr(runner, "run_arms", lambda *_, **__: recording)


@pytest.mark.usefixtures("_replayed")
@pytest.mark.parametrize(
    ("requirements", "code", "verdict"),
    [
        (["state_bytes_per_parameter <= 8.2", "state_bytes <= 1x"], 0, "pass"),
        (["state_bytes_per_parameter <= 2.1"], 1, "fail"),
        (["optimizer_seconds <= 1h"], 2, None),
        (["optimizer_seconds <= 1s"], 5, "inconclusive"),  # four samples have no interval
        (["state_bytes <= 1x", "optimizer_seconds <= 1e-9"], 5, "inconclusive"),
        (["state_bytes <= 0.5x", "optimizer_seconds <= 1s"], 1, "fail"),
    ],
)
def test_requirements_determine_verdict_and_exit_code(
    mine: Path, requirements: list[str], code: int, verdict: str | None
) -> None:
    options = [argument for text in requirements for argument in ("--require", text)]
    command = optadvise("bench", "adam", *QUICK, *options, "--json", "-")
    assert command.code == code, command.err
    if verdict is None:
        assert command.error == "invalid-requirement"
        return
    result = parse_result(command.out)
    assert result["verdict"] == verdict
    assert [r["text"] for r in result["requirements"]] == requirements


def test_time_requirements_are_decided_with_enough_samples(mine: Path) -> None:
    options = (*QUICK, "--rounds", "3", "--steps", "5", "--control", "none", "--json", "out.json")
    requirements = ("--require", "step_seconds <= 30s", "--require", "step_seconds <= 1us")
    command = optadvise("bench", "adam", *options, *requirements)
    assert command.code == 1
    result = parse_result((mine / "out.json").read_text("utf-8"))
    assert [r["verdict"] for r in result["requirements"]] == ["pass", "fail"]
    assert result["verdict"] == "fail"
    assert re.search(r"(?m)^  pass  step_seconds <= 30s: adam \S+ ms", command.out)
    assert re.search(r"(?m)^  fail  step_seconds <= 1us: adam \S+ ms", command.out)


@pytest.mark.parametrize(("max_time", "rounds"), [("100", 3), ("0", 2)])
def test_rounds_are_added_until_a_requirement_is_decided(mine: Path, max_time: str, rounds: int) -> None:
    options = (*QUICK, "--rounds", "2", "--steps", "2", "--control", "none", "--max-time", max_time)  # no interval
    optadvise("bench", "adam", *options, "--require", "step_seconds <= 30s", "--json", "out.json")
    result = parse_result((mine / "out.json").read_text("utf-8"))
    assert len(result["arms"][0]["step_seconds"]["samples"]) == 2 * rounds
    assert result["verdict"] == ("pass" if rounds == 3 else "inconclusive")


def test_piped_recommendation_runs_unchanged(mine: Path) -> None:
    options = ["--model", "transformer", "--optimizer", "lion", "--precision", "fp32"]
    program = [sys.executable, "-m", "optadvise"]
    recommend = subprocess.run([*program, "recommend", *options, "--json"], capture_output=True, text=True, check=True)
    command = [*program, "bench", "-", *QUICK, "--control", "none", "--json", "-"]
    bench_process = subprocess.run(command, input=recommend.stdout, capture_output=True, text=True, check=False)
    assert bench_process.returncode == 0, bench_process.stderr
    advice, piped_result = json.loads(recommend.stdout), parse_result(bench_process.stdout)
    (mine / "rec.json").write_text(recommend.stdout, encoding="utf-8")
    for result in (piped_result, bench("--from", "rec.json", *QUICK, "--control", "adam")):
        candidate, *_ = result["arms"]
        assert (candidate["optimizer"], candidate["status"]) == ("lion", "ok")
        assert candidate["implementation"]["import"] == advice["optimizer"]["import"]
        assert candidate["implementation"]["kwargs"] == advice["optimizer"]["kwargs"]


def test_csv_markdown_and_dashboard_files(mine: Path) -> None:
    result = bench(
        "lion", "paged-adamw8bit", *QUICK, "--csv", "a.csv", "--markdown", "a.md", "--dashboard", "b.json",
    )  # fmt: skip
    lion, paged, control = result["arms"]
    assert paged["status"] == "unsupported"
    rows = list(csv.DictReader((mine / "a.csv").read_text("utf-8").splitlines()))
    assert [row["label"] for row in rows] == ["lion", "paged-adamw8bit", "adamw (control)"]
    assert float(rows[0]["step_seconds"]) == lion["step_seconds"]["median"]
    assert float(rows[2]["state_bytes"]) == control["state_bytes"]
    assert {rows[1][name] for name in rows[1]} == {"paged-adamw8bit", "candidate", "unsupported", ""}
    lines = (mine / "a.md").read_text("utf-8").splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert len(cells) == 5
    assert len({len(row) for row in cells}) == 1
    assert paged["error"] in lines[3]
    entries = json.loads((mine / "b.json").read_text("utf-8"))
    assert {entry["name"] for entry in entries} == {
        f"{label} {metric}"
        for label in ("lion", "adamw (control)")
        for metric in ("optimizer_seconds", "step_seconds", "state_bytes_per_parameter")
    }
    assert all(entry["value"] > 0 and entry["unit"] for entry in entries)


def test_optimizer_only() -> None:
    result = bench(
        "sgd-momentum", "--optimizer-only", "--params", "200K", "--rounds", "2", "--steps", "2", "--threads", "1"
    )
    for arm in result["arms"]:
        assert arm["status"] == "ok"
        assert arm["parameters"] == pytest.approx(parse_count("200K", "--params"), rel=0.05)
        assert arm["forward_seconds"]["median"] is None
        assert arm["throughput"]["value"] is None
        assert arm["loss"] == {"first": None, "last": None, "finite": True}


def test_all_implementations_are_compared_with_the_fastest(mine: Path) -> None:
    result = bench("adamw", "--implementation", "all", *QUICK)
    assert [arm["status"] for arm in result["arms"]] == ["ok"] * 5
    labels = [arm["label"] for arm in result["arms"]]
    assert len(set(labels)) == 5
    assert [arm["role"] for arm in result["arms"]] == ["control"] + ["candidate"] * 4
    ratio_labels = {r["label"] for r in result["ratios"] if r["metric"] == "optimizer_seconds"}
    assert ratio_labels == set(labels[1:])


def test_text_fits_a_log(mine: Path) -> None:
    command = optadvise("bench", "stable-adamw", "paged-adamw32bit", *QUICK, "--require", "state_bytes <= 1x")
    assert command.code == 5  # an unsupported arm decides nothing
    assert max(len(line) for line in command.out.splitlines()) <= 80
    assert "\x1b" not in command.out + command.err
    assert all(line == line.rstrip() for line in command.out.splitlines())
    for text in ("stable-adamw", "adamw (control)", "optimi.StableAdamW, foreach", "unsupported", "inconclusive"):
        assert text in command.out
    # One progress line per start, round and end; an unsupported arm is only started.
    lines = command.err.splitlines()
    assert len(lines) == 3 + 2 + 2
    arms = ("stable-adamw", "paged-adamw32bit", "adamw (control)")
    assert [line.endswith(arm) for line, arm in zip(lines, arms, strict=False)] == [True] * 3
    assert [line.endswith(arm) for line, arm in zip(lines[5:], arms[::2], strict=True)] == [True] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "option", "value"),
    [
        ("", "missing-option", None, None),
        ("adamv", "unknown-name", None, "adamv"),
        ("adamw --rounds 0", "out-of-range", "--rounds", "0"),
        ("adamw --steps -1", "invalid-number", "--steps", "-1"),
        ("adamw --steps 1.5", "invalid-number", "--steps", "1.5"),
        ("adamw --batch-size none", "invalid-number", "--batch-size", "none"),
        ("adamw --workload gan", "unknown-choice", "--workload", "gan"),
        ("adamw --params 0", "out-of-range", "--params", "0"),
        ("adamw --threads 0", "out-of-range", "--threads", "0"),
        ("adamw --seed -1", "out-of-range", "--seed", "-1"),
        ("adamw --seed 99999999999999999999", "out-of-range", "--seed", "99999999999999999999"),
        ("adamw --seed one", "invalid-number", "--seed", "one"),
        ("adamw --timeout 0", "out-of-range", "--timeout", "0.0"),
        ("adamw --timeout nan", "out-of-range", "--timeout", "nan"),
        ("adamw --precision fp8", "unknown-choice", "--precision", "fp8"),
        ("adamw --model-size huge", "unknown-choice", "--model-size", "huge"),
        ("adamw --workload nope", "unknown-choice", "--workload", "nope"),
        ("adamw --workload a.b:c", "invalid-workload", "--workload", "a.b:c"),
        ("adamw --workload cnn --seq-len 64", "option-conflict", "--seq-len", "64"),
        ("adamw --params 400B", "out-of-range", "--params", "400000000000"),
        ("adamw --require foo<=1", "unknown-choice", "--require", "foo"),
        ("adamw --require state_bytes", "invalid-requirement", "--require", "state_bytes"),
        ("adamw --device tpu", "unknown-choice", "--device", "tpu"),
        ("adamw --control nope", "unknown-name", "--control", "nope"),
        ("adamw --implementation rust", "unknown-choice", "--implementation", "rust"),
        ("adamw --from rec.json", "option-conflict", "--from", None),
        ("--from rec.json --implementation fused", "option-conflict", "--implementation", "fused"),
        ("--from none.json", "file-not-found", "--from", "none.json"),
        ("--from text.json", "invalid-syntax", "--from", "text.json"),
        ("--from list.json", "invalid-recommendation", "--from", None),
        ("--from rec.json", "invalid-recommendation", "--from", None),
        ("--from bytes.json", "invalid-syntax", "--from", "bytes.json"),
        ("adamw --rules none", "file-not-found", "--rules", "none"),
        ("adamw --no-such-option", "unknown-option", "--no-such-option", "--no-such-option"),
    ],
)
def test_invalid_options(mine: Path, arguments: str, error: str, option: str | None, value: str | None) -> None:
    for name, content in {"text": b"adamw", "list": b"[]", "rec": b'{"kind": "bench"}', "bytes": b"\xff\xfex"}.items():
        (mine / f"{name}.json").write_bytes(content)
    command = optadvise("bench", *arguments.split())
    assert command.failure is not None
    assert (command.code, command.out) == (2, "")
    assert (command.error, command.failure.option, command.failure.value) == (error, option, value)
    assert find_error_line(command.err)
