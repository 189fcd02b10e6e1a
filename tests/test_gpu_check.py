"""Check of a GPU: stages on a CPU and on the stand-in for CUDA, and stages that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpu_check import steps
from gpu_check.command import find_exit_code, make_report, run_stages
from gpu_check.records import Check, Report, Settings, Stage, StageResult, Status, check_range
from gpu_check.report import render_markdown
from gpu_check.stages import STAGES, StageRun
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark.plan import plan_arms
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.errors import CannotRunHereError
from tests.conftest import ROOT
from tests.cuda_stand_in.session import StandIn
from tests.cuda_stand_in.settings import CONTEXT_BYTES, Gpu

Start = Callable[..., StandIn]
SCRIPT = ROOT / "benchmarks" / "gpu_check"
CPU = Settings("cpu", quick=True)


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=280)


def make_stage(name: str, seconds: float = 60, item_seconds: float = 60) -> Stage:
    return Stage(name, f"tests.gpu_check_stages:list_{name}_items", seconds, item_seconds)


def run_named_stage(name: str, settings: Settings) -> dict[str, Check]:
    (stage,) = (stage for stage in STAGES if stage.name == name)
    result = StageRun(stage, settings).run()
    assert (result.status, result.error) == ("ok", None)
    return {check.name: check for check in result.checks}


# -- command ----------------------------------------------------------------------------------------------------------


def test_a_cpu_runs_the_stages_that_it_can(tmp_path: Path) -> None:
    files = tmp_path / "check.json", tmp_path / "check.md"
    process = run_script("--device", "cpu", "--quick", "--json", str(files[0]), "--markdown", str(files[1]))
    assert process.returncode == 0, process.stdout + process.stderr
    report = json.loads(files[0].read_text("utf-8"))
    assert (report["schema_version"], report["kind"], report["complete"]) == (1, "gpu-check", True)
    statuses = {stage["name"]: stage["status"] for stage in report["stages"]}
    needs_gpu = ("context", "paged", "claims", "two-gpus")
    assert statuses == {stage.name: "skipped" if stage.name in needs_gpu else "ok" for stage in STAGES}
    for stage in report["stages"]:
        if stage["status"] == "ok" and stage["name"] != "bandwidth":  # of which nothing is expected on a CPU
            assert any(check["is_right"] for check in stage["checks"])
        assert f"## {stage['name']}" in files[1].read_text("utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="requires a machine without a GPU")
def test_the_check_requires_a_gpu() -> None:
    process = run_script()
    assert (process.returncode, process.stdout, len(process.stderr.splitlines())) == (4, "", 1)


def test_a_file_that_cannot_be_written_is_rejected(tmp_path: Path) -> None:
    assert run_script("--device", "cpu", "--json", str(tmp_path / "none" / "check.json")).returncode == 2


@pytest.mark.parametrize(
    ("status", "is_right", "complete", "code"),
    [
        ("ok", True, True, 0), ("ok", None, True, 0), ("skipped", None, True, 0), ("ok", False, True, 1),
        ("failed", True, True, 1), ("incomplete", True, True, 5), ("incomplete", False, True, 1),
        ("incomplete", False, False, 130),
    ],
)  # fmt: skip
def test_exit_code(status: Status, is_right: bool | None, complete: bool, code: int) -> None:
    stage = StageResult(name="steps", status=status, seconds=1.0, checks=(Check(name="adamw", is_right=is_right),))
    assert find_exit_code(replace(make_report(CPU, None), complete=complete, stages=(stage,))) == code


# -- stages -----------------------------------------------------------------------------------------------------------


def test_failed_stages_are_recorded_and_do_not_stop_the_others() -> None:
    stages = (make_stage("no"), make_stage("skipped"), make_stage("hanging", seconds=1), make_stage("good"))
    *incomplete, report = run_stages(make_report(CPU, None), CPU, stages)
    assert [len(each.stages) for each in incomplete] == [1, 2, 3]
    assert not any(each.complete for each in incomplete)
    assert report.complete
    assert [stage.status for stage in report.stages] == ["failed", "skipped", "incomplete", "ok"]
    assert [stage.error is None for stage in report.stages] == [False, False, False, True]
    assert report.stages[-1].checks == (Check(name="good", is_right=True, measured="cpu"),)


def test_failed_items_are_recorded_and_do_not_stop_the_others() -> None:
    result = StageRun(make_stage("failing", item_seconds=2), CPU).run()
    assert result.status == "incomplete"  # one was stopped
    failures = {check.name: check.is_right for check in result.checks if check.name != "good"}
    assert failures == {"fail": False, "skip": None, "crash": False, "hang": None}
    assert all(check.note for check in result.checks if check.name != "good")
    assert sum(check.name == "good" for check in result.checks) == len(failures)


def test_no_stage_starts_without_time() -> None:
    assert StageRun(make_stage("good"), CPU, max_seconds=0).run().status == "incomplete"


def test_a_range_contains_its_ends_and_decides_nothing_without_a_figure() -> None:
    assert [check_range("size", size, 1, 2).is_right for size in (0.9, 1, 2, 2.1, None)] == [
        False, True, True, False, None,
    ]  # fmt: skip


def test_markdown_has_one_row_for_each_check() -> None:
    checks = (Check(name="a|b", note="first\nsecond"), check_range("peak", 2**30, 0, 2**31, "bytes"))
    stage = StageResult(name="memory", status="ok", seconds=1.0, checks=checks)
    report: Report = replace(make_report(CPU, "NVIDIA A100"), stages=(stage,))
    rows = [line for line in render_markdown(report).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(checks)
    assert {row.replace("\\|", "").count("|") for row in rows} == {7}


# -- measurements -----------------------------------------------------------------------------------------------------


def plan_arm(rules: CompiledRules, name: str) -> tuple[Spec, Arm]:
    spec = Spec(optimizer_only=True, params=100_000, steps=1, rounds=1, warmup=0, threads=1)
    return spec, plan_arms(rules, [name], spec, control=None, implementation=None)[0]


def test_an_arm_that_works_is_right(rules: CompiledRules) -> None:
    (check,) = steps.check_arm(*plan_arm(rules, "adamw"), bandwidth=1e12)
    assert check.is_right
    assert check.figures["state_bytes_per_parameter"] == pytest.approx(8, rel=0.01)
    assert 0 < (check.figures["bandwidth_share"] or 0) < 1


def test_an_arm_that_fails_is_wrong(rules: CompiledRules) -> None:
    spec, arm = plan_arm(rules, "adamw")
    (check,) = steps.check_arm(spec, replace(arm, kwargs={"no_such_argument": 1}), bandwidth=1e12)
    assert (check.is_right, check.measured) == (False, "error")


def test_an_arm_that_its_card_does_not_support_is_skipped(rules: CompiledRules) -> None:
    with pytest.raises(CannotRunHereError):
        steps.check_arm(*plan_arm(rules, "paged-adamw8bit"), bandwidth=1e12)


# -- stand-in for CUDA ------------------------------------------------------------------------------------------------


def test_context_on_a_gpu(cuda: Start) -> None:
    cuda(Gpu(memory_gib=8))
    checks = run_named_stage("context", Settings("cuda"))
    assert [check.measured for check in checks.values()] == [CONTEXT_BYTES, CONTEXT_BYTES]


def test_paged_state_on_a_gpu(cuda: Start) -> None:
    cuda(Gpu(memory_gib=8))
    checks = run_named_stage("paged", Settings("cuda", quick=True))
    assert all(check.is_right for check in checks.values())
    assert {check.measured == 0 for check in checks.values()} == {True, False}


def test_managed_memory_requires_free_memory(cuda: Start) -> None:
    cuda(Gpu(memory_gib=3))
    (stage,) = (stage for stage in STAGES if stage.name == "paged")
    assert StageRun(stage, Settings("cuda", quick=True)).run().status == "skipped"


def test_programs_on_a_gpu(cuda: Start) -> None:
    cuda(Gpu(memory_gib=8))
    checks = run_named_stage("programs", Settings("cuda"))
    assert len(checks) == 6
    assert all(check.is_right for check in checks.values())
