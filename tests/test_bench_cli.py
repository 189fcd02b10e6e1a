"""`optadvise bench` as a person types it: tables, files, gates and what it refuses."""

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
from tests.bench import MINE, one_line, result_in
from tests.cli import CommandResult, optadvise

# A little network of the test's own, as fast as torch starts.
QUICK = ("--workload", "mine:plain", "--rounds", "2", "--steps", "2", "--threads", "1")


def bench(*arguments: str) -> dict[str, Any]:
    """Return the result of a command line that is expected to do its work."""
    said = optadvise("bench", *arguments, "--json", "-")
    assert said.code == 0, said.err
    return result_in(said.out)


def test_a_candidate_against_its_control() -> None:
    found = bench(
        "adamw8bit", "--rounds", "2", "--steps", "2", "--threads", "1", "--batch-size", "2", "--seq-len", "16"
    )
    assert (found["kind"], found["schema_version"], found["complete"], found["verdict"]) == ("bench", 1, True, None)
    assert found["spec"]["workload"] == "transformer"
    assert (found["spec"]["rounds"], found["spec"]["steps"], found["spec"]["seq_len"]) == (2, 2, 16)
    assert {"python", "platform", "processor", "cores", "threads", "packages"} <= set(found["environment"])
    assert {"torch", "bitsandbytes"} == set(found["environment"]["packages"])
    candidate, control = found["arms"]
    assert (candidate["optimizer"], candidate["role"], candidate["status"]) == ("adamw8bit", "candidate", "ok")
    assert (control["optimizer"], control["role"], control["status"]) == ("adamw", "control", "ok")
    assert 2.0 < candidate["state_bytes_per_parameter"] < 2.1
    assert 8.0 <= control["state_bytes_per_parameter"] < 8.01
    assert all(len(arm["step_seconds"]["samples"]) == 4 for arm in found["arms"])
    ratios = {r["metric"]: r for r in found["ratios"]}
    assert ratios["optimizer_seconds"]["ratio"] > 1
    assert ratios["state_bytes"]["ratio"] == pytest.approx(candidate["state_bytes"] / control["state_bytes"])
    assert {(r["optimizer"], r["versus"]) for r in found["ratios"]} == {("adamw8bit", "adamw")}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what one real run of `bench adam` measures, for gates to judge."""
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
    """Return the recording instead of measuring."""
    monkeypatch.setattr(runner, "run_arms", lambda *_, **__: recording)


@pytest.mark.usefixtures("_replayed")
@pytest.mark.parametrize(
    ("requirements", "code", "verdict"),
    [
        (["state_bytes_per_parameter <= 8.2", "state_bytes <= 1x"], 0, "pass"),
        (["state_bytes_per_parameter <= 2.1"], 1, "fail"),
        (["optimizer_seconds <= 1h"], 2, None),
        (["optimizer_seconds <= 1s"], 5, "inconclusive"),  # of four samples nothing is certain
        (["state_bytes <= 1x", "optimizer_seconds <= 1e-9"], 5, "inconclusive"),
        (["state_bytes <= 0.5x", "optimizer_seconds <= 1s"], 1, "fail"),
    ],
)
def test_gates(mine: Path, requirements: list[str], code: int, verdict: str | None) -> None:
    asked = [word for text in requirements for word in ("--require", text)]
    said = optadvise("bench", "adam", *QUICK, *asked, "--json", "-")
    assert said.code == code, said.err
    if verdict is not None:
        found = result_in(said.out)
        assert found["verdict"] == verdict
        assert [r["text"] for r in found["requirements"]] == requirements


def test_a_gate_on_time_passes_and_fails_with_samples_enough(mine: Path) -> None:
    few = (*QUICK, "--rounds", "3", "--steps", "5", "--control", "none")
    asked = ("--require", "step_seconds <= 30s", "--require", "step_seconds <= 1us")
    said = optadvise("bench", "adam", *few, *asked)
    assert said.code == 1
    assert re.search(r"(?m)^  pass  step_seconds <= 30s: adam \S+ ms", said.out)
    assert re.search(r"(?m)^  fail  step_seconds <= 1us: adam \S+ ms", said.out)
    assert said.out.endswith("Verdict: fail\n")


def test_a_recommendation_is_piped_in_and_runs_as_it_is(mine: Path) -> None:
    options = ["--model", "transformer", "--optimizer", "lion", "--precision", "fp32"]
    program = [sys.executable, "-m", "optadvise"]
    recommend = subprocess.run([*program, "recommend", *options, "--json"], capture_output=True, text=True, check=True)
    command = [*program, "bench", "-", *QUICK, "--control", "none", "--json", "-"]
    done = subprocess.run(command, input=recommend.stdout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    advice, found = json.loads(recommend.stdout), result_in(done.stdout)
    (mine / "rec.json").write_text(recommend.stdout, encoding="utf-8")
    for result in (found, bench("--from", "rec.json", *QUICK, "--control", "adam")):
        candidate, *_ = result["arms"]
        assert (candidate["optimizer"], candidate["status"]) == ("lion", "ok")
        assert candidate["implementation"]["import"] == advice["optimizer"]["import"]
        assert candidate["implementation"]["kwargs"] == advice["optimizer"]["kwargs"]


def test_files_for_spreadsheets_pull_requests_and_dashboards(mine: Path) -> None:
    found = bench(
        "lion", "paged-adamw8bit", *QUICK, "--csv", "a.csv", "--markdown", "a.md", "--dashboard", "b.json",
    )  # fmt: skip
    lion, paged, control = found["arms"]
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
    assert "paged state needs CUDA" in lines[3]
    entries = json.loads((mine / "b.json").read_text("utf-8"))
    assert {entry["name"] for entry in entries} == {
        f"{label} {metric}"
        for label in ("lion", "adamw (control)")
        for metric in ("optimizer_seconds", "step_seconds", "state_bytes_per_parameter")
    }
    assert all(entry["value"] > 0 and entry["unit"] for entry in entries)


def test_steps_alone() -> None:
    found = bench(
        "sgd-momentum", "--optimizer-only", "--params", "200K", "--rounds", "2", "--steps", "2", "--threads", "1"
    )
    for arm in found["arms"]:
        assert arm["status"] == "ok"
        assert arm["parameters"] == pytest.approx(parse_count("200K", "--params"), rel=0.05)
        assert arm["forward_seconds"]["median"] is None
        assert arm["throughput"]["value"] is None
        assert arm["loss"] == {"first": None, "last": None, "finite": True}


def test_all_implementations_each_against_the_fastest(mine: Path) -> None:
    found = bench("adamw", "--implementation", "all", *QUICK)
    assert [arm["status"] for arm in found["arms"]] == ["ok"] * 5
    labels = [arm["label"] for arm in found["arms"]]
    assert len(set(labels)) == 5
    assert [arm["role"] for arm in found["arms"]] == ["control"] + ["candidate"] * 4
    timed = {r["label"]: r["ratio"] for r in found["ratios"] if r["metric"] == "optimizer_seconds"}
    assert set(timed) == set(labels[1:])


def test_the_table_is_readable_in_a_log(mine: Path) -> None:
    said = optadvise("bench", "stable-adamw", "paged-adamw32bit", *QUICK, "--require", "state_bytes <= 1x")
    assert said.code == 5  # what cannot run here leaves the question open
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert "\x1b" not in said.out + said.err
    assert all(line == line.rstrip() for line in said.out.splitlines())
    for words in (
        "stable-adamw",
        "adamw (control)",
        "optimi.StableAdamW, foreach",
        "Requirements",
        "Verdict: inconclusive",
    ):
        assert words in said.out
    assert said.err.splitlines() == [
        "starting stable-adamw", "starting paged-adamw32bit", "starting adamw (control)",
        "round 1 of 2", "round 2 of 2",
        "reading memory of stable-adamw", "reading memory of adamw (control)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("", "bench: name at least one optimizer"),
        ("adamv", "bench 'adamv': not known; did you mean 'adam'"),
        ("adamw --rounds 0", "--rounds '0': must be above 0"),
        ("adamw --steps -1", "--steps '-1': not a count"),
        ("adamw --steps 1.5", "--steps '1.5': must be a whole number"),
        ("adamw --batch-size none", "--batch-size 'none': not a count"),
        ("adamw --params 0", "--params '0': must be above 0"),
        ("adamw --threads 0", "--threads '0': must be above 0"),
        ("adamw --seed -1", "--seed -1: must be at least 0 and below 2^63"),
        ("adamw --seed 99999999999999999999", "--seed 99999999999999999999: must be"),
        ("adamw --seed one", "Invalid value for '--seed'"),
        ("adamw --timeout 0", "--timeout 0: must be above 0 seconds"),
        ("adamw --timeout nan", "--timeout nan: must be above 0 seconds"),
        ("adamw --dtype fp8", "--dtype 'fp8': not known; accepted: fp32, bf16"),
        ("adamw --model-size huge", "--model-size 'huge': not known; accepted: tiny, small, medium"),
        ("adamw --workload nope", "--workload 'nope': not known; accepted: transformer, cnn, mlp"),
        ("adamw --workload a.b:c", "--workload 'a.b:c': importing a.b raised ModuleNotFoundError"),
        ("adamw --workload cnn --seq-len 64", "--seq-len: the cnn workload has none"),
        ("adamw --params 400B", "--params 400000000000: no transformer comes within 10 %"),
        ("adamw --require foo<=1", "--require 'foo<=1': no metric 'foo'"),
        ("adamw --require state_bytes", "--require 'state_bytes': not a requirement"),
        ("adamw --device tpu", "--device 'tpu': not known; accepted: cpu, cuda, auto"),
        ("adamw --control nope", "--control 'nope': not known"),
        ("adamw --implementation rust", "--implementation 'rust': adamw has none"),
        ("adamw --from rec.json", "--from: it names the optimizer already"),
        ("--from rec.json --implementation fused", "--implementation: a recommendation names its own"),
        ("--from none.json", "--from 'none.json': cannot be read (No such file"),
        ("--from text.json", "--from: no JSON ("),
        ("--from list.json", "--from: not a recommendation"),
        ("--from rec.json", "this is no recommendation of schema version 1"),
        ("--from bytes.json", "--from 'bytes.json': cannot be read (not UTF-8)"),
        ("adamw --rules none", "--rules 'none': no such folder"),
        ("adamw --no-such-option", "No such option: --no-such-option"),
    ],
)
def test_bad_options_are_one_line(mine: Path, arguments: str, line: str) -> None:
    for name, content in {"text": b"adamw", "list": b"[]", "rec": b'{"kind": "bench"}', "bytes": b"\xff\xfe"}.items():
        (mine / f"{name}.json").write_bytes(content)
    said: CommandResult = optadvise("bench", *arguments.split())
    assert said.code == 2, said
    assert said.out == ""
    assert one_line(said.err).startswith(line)
