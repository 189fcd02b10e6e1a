"""Fuzzing of the command line: a few cases of each target; `pytest -m slow -k fuzz -n 2` fuzzes for an hour.

A failing case prints its command line and the folder of its files; `python -m tests.fuzz` also prints a table.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.campaign import Count, format_table, run_campaign, run_case
from tests.fuzz.cases import Case, FindingError
from tests.fuzz.checks import check
from tests.fuzz.sandbox import Sandbox
from tests.fuzz.targets import TARGETS, Target

SECONDS = float(os.environ.get("OPTADVISE_FUZZ_SECONDS", "3600"))
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
CASES = {"command lines": 20, "--hf-config": 20, "bench --merge": 15, "compare": 10, "sweep": 10, "evidence": 10,
         "bench --from": 10, "cache": 3, "rule layers": 5, "larger runs": 4, "more memory": 3,
         "printed changes": 3}  # fmt: skip
REAL = """
    doctor --json
    trajectories adamw lion --steps 20 --json
    verify adamw --timeout 60 --json
    verify sgd --timeout 1e-3
    bench adam --rounds 2 --steps 2 --threads 1 --batch-size 2 --seq-len 16 --json
    bench adam --workload json:tool
    bench adam --timeout 1e-3
    estimate --workload json:tool --json
""".strip().splitlines()


def report(name: str, error: FindingError, folder: Path) -> str:
    return f"{name}: {error.signature}\n{error.save(folder)}\n{error.output}"


@pytest.mark.parametrize("name", TARGETS)
def test_cases_of_a_target(name: str, tmp_path: Path) -> None:
    count, sandbox = Count(), Sandbox(tmp_path / "sandbox")
    found = [run_case(name, number, sandbox, count) for number in range(CASES.get(name, 8))]
    assert not any(found), "\n\n".join(report(name, error, tmp_path / "findings") for error in found if error)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 900)
@pytest.mark.parametrize("part", range(WORKERS))
def test_cases_for_an_hour(part: int, tmp_path: Path) -> None:
    counts = run_campaign(SECONDS, part + 1, Sandbox(tmp_path / "sandbox"))
    print(format_table(counts))
    lines = [
        report(name, error, tmp_path / "findings")
        for name, count in counts.items()
        for error in count.findings.values()
    ]
    assert not lines, "\n\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line.strip() for line in REAL])
def test_commands_with_real_workers(line: str, tmp_path: Path) -> None:
    case = Case(arguments=tuple(line.split()), is_real=True)
    check(case, Sandbox(tmp_path).run(case))


def test_a_finding_is_reduced_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that only --explain has is reduced to this option; the files are saved with the command line."""

    def fail_with_explain(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("optadvise.rule_analysis.why_not.explain_decisions", fail_with_explain)
    line = ("recommend", "--model", "cnn", "--explain", "--clipping")
    monkeypatch.setitem(TARGETS, "mine", Target(lambda _: Case(arguments=line, files={"a.json": b"{}"})))
    count = Count()
    error = run_case("mine", 0, Sandbox(tmp_path / "sandbox"), count)
    assert error is not None
    assert "RuntimeError" in error.signature
    assert error.case.arguments == ("recommend", "--explain")
    assert error.save(tmp_path / "findings").endswith("optadvise recommend --explain")
    assert (tmp_path / "findings" / "000" / "a.json").read_bytes() == b"{}"
    assert (count.codes, count.repeated) == ({}, {error.signature: 1})


def test_paths_are_printed_without_control_characters(tmp_path: Path) -> None:
    """Found by the fuzzer: a folder with a bidirectional override was printed as typed."""
    for line in (("rules", "init", "\u202eevil\x1b[1m"), ("schedule", "cosine", "--plot", "\u202eevil.png")):
        case = Case(arguments=line)
        check(case, Sandbox(tmp_path).run(case))


def test_no_part_of_a_tiny_network_is_negative(tmp_path: Path) -> None:
    """Found by the fuzzer: the layers of 1M parameters, extrapolated from a larger network, had less than nothing."""
    case = Case(arguments=tuple("estimate --params 1M --method lora --gpus 8 --shard zero3 --json".split()))
    check(case, Sandbox(tmp_path).run(case))
