"""Every fault for real: what goes wrong with one worker is that arm's result, and the others go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import plan, runner
from optadvise.benchmark.measurement import ArmMeasurement, ArmSummary
from optadvise.benchmark.runner import ArmFailedError
from optadvise.benchmark.spec import Spec
from optadvise.benchmark.worker_arm import WorkerArm
from tests.bench import ended, one_line, result_in, workers
from tests.cli import optadvise
from tests.test_bench_runner import arm, nothing, silent
from tests.test_catalog import CARD

SPEC = Spec(steps=2, rounds=3, warmup=0, threads=1)
QUICK = ("--rounds", "1", "--steps", "2", "--threads", "1", "--control", "none")

# A worker without torch. `do()` answers one command, or does what goes wrong.
GOOD = """
import json, os, subprocess, sys, time

def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)

def do(command):
    if command == "start":
        say("ready", first_step_seconds=0.1)
    elif command == "round":
        say("round", samples={"step": [0.1]})
    else:
        say("done", finite=True)

def bad(command):
    %s

for line in sys.stdin:
    command = json.loads(line).get("command", "start")
    bad(command) if command == %r else do(command)
"""


def scripted(label: str, bad: str = "pass", at: str = "never", timeout: float = 30.0) -> WorkerArm:
    return WorkerArm(SPEC, arm(label), timeout=timeout, command=(sys.executable, "-c", GOOD % (bad, at)))


def measured(*arms: WorkerArm) -> list[ArmMeasurement]:
    found = runner.run_arms(arms, SPEC.rounds, progress=silent, save=nothing)
    assert workers() == []
    return found


def test_a_worker_that_does_all_is_ok() -> None:
    (found,) = measured(scripted("a"))
    assert (found.failure, len(found.rounds), found.summary) == (None, 3, ArmSummary(finite=True))


@pytest.mark.parametrize("at", ["start", "round", "finish"])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("time.sleep(600)", "no answer within 3 s; raise --timeout"),
        ("print('Loading shards', flush=True)", "the worker answered with garbage: 'Loading shards'"),
        ("print('[]', flush=True)", "the worker answered with garbage: '[]'"),
        ("print('null', flush=True)", "the worker answered with garbage: 'null'"),
        ("print('{\"samples\": 1}', flush=True)", "the worker answered with garbage: '{\"samples\": 1}'"),
        ("os.write(1, bytes([255, 254, 10]))", "the worker answered with garbage: '\ufffd\ufffd'"),
        ("say('other')", "the worker answered with garbage: '{\"event\": \"other\"}'"),
        ("print('one\\ntwo: boom', file=sys.stderr); sys.exit(3)", "the worker ended with exit code 3: two: boom"),
        ("sys.exit(0)", "the worker ended with exit code 0"),
        ("os.kill(os.getpid(), 9)", "the worker was killed by SIGKILL, as the kernel does when memory runs out"),
        ("os.kill(os.getpid(), 11)", "the worker was killed by SIGSEGV"),
        ("say('failed', status='oom', error='no room', peak_memory_bytes=None)", "no room"),
    ],
)  # fmt: skip
def test_a_fault_is_that_arms_result_and_the_others_go_on(bad: str, error: str, at: str) -> None:
    begin = time.monotonic()
    first, lost, last = measured(
        scripted("a"), scripted("b", bad, at, timeout=3.0 if "sleep" in bad else 30.0), scripted("c")
    )
    assert time.monotonic() - begin < 30
    assert lost.failure is not None
    assert lost.failure.error.startswith(error)
    assert lost.failure.status == ("oom" if error == "no room" else "error")
    assert len(lost.rounds) == (3 if at == "finish" else 0)
    for other in (first, last):
        assert (other.failure, len(other.rounds), other.summary) == (None, 3, ArmSummary(finite=True))


def test_a_worker_that_cannot_be_reached_before_it_was_told_anything() -> None:
    lost = WorkerArm(SPEC, arm("a"), timeout=30, command=(sys.executable, "-c", "raise SystemExit('no such thing')"))
    (found,) = measured(lost)
    assert found.failure is not None
    assert found.failure.error == "the worker ended with exit code 1: no such thing"


@pytest.mark.parametrize("end", ["sys.exit(1)", "time.sleep(600)", "say('round', samples={})"])
def test_what_a_worker_started_ends_with_it(tmp_path: Path, end: str) -> None:
    child = "child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)"
    file = tmp_path / "pid"
    lost = scripted("a", f"{child}; open({str(file)!r}, 'w').write(str(child.pid)); {end}", "round", timeout=1.0)
    measured(lost)
    assert ended([int(file.read_text())])


def test_a_long_timeout_is_as_long_as_can_be() -> None:
    (found,) = measured(scripted("a", timeout=float("inf")))
    assert found.failure is None


def test_stopping_twice_or_before_the_start_is_fine() -> None:
    lost = scripted("a")
    lost.stop()
    lost.start()
    lost.stop()
    lost.stop()


def test_an_answer_that_never_comes_is_not_waited_for_at_the_end() -> None:
    lost = scripted("a", "time.sleep(600)", "start", timeout=0.5)
    with pytest.raises(ArmFailedError):
        lost.start()
    begin = time.monotonic()
    lost.stop()
    assert time.monotonic() - begin < 1


def test_a_real_worker_that_is_killed_in_the_middle_of_a_round(rules: CompiledRules, mine: Path) -> None:
    spec = replace(SPEC, workload="mine:slow", user=True, steps=6)
    arms = plan.plan_arms(rules, ["sgd", "adam"], spec, control="adamw", implementation=None)

    def kill(what: str, label: str, number: int) -> None:
        if (what, label, number) == ("round", "adam", 2):
            threading.Timer(0.1, os.kill, (workers()[1], signal.SIGKILL)).start()

    found = runner.run_arms([WorkerArm(spec, a, timeout=60) for a in arms], 3, progress=kill, save=nothing)
    assert [len(r.rounds) for r in found] == [3, 1, 3]
    assert found[1].failure is not None
    assert found[1].failure.status == "error"
    assert found[1].failure.error.startswith("the worker was killed by SIGKILL")
    assert all(r.summary and r.summary.finite and not r.failure for r in (found[0], found[2]))
    assert workers() == []


# The worker may take 1 GB of addresses more than torch does, and the first tensor of this size needs more.
SMALL_MACHINE = """
import resource, runpy, torch
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
runpy.run_module("optadvise.benchmark.worker", run_name="__main__")
"""


def test_an_allocation_that_fails_is_a_result_with_the_peak_reached(rules: CompiledRules) -> None:
    spec = replace(SPEC, optimizer_only=True, params=10**11)
    (big,) = plan.plan_arms(rules, ["adamw"], spec, control=None, implementation=None)
    (found,) = measured(
        WorkerArm(spec, big, timeout=60, command=(sys.executable, "-m", "tests.program", SMALL_MACHINE))
    )
    assert found.failure is not None
    assert found.failure.status == "oom"
    assert "allocate" in found.failure.error
    assert found.failure.peak_memory_bytes is not None
    assert (found.failure.peak_memory_bytes.process or 0) > 2**26


@pytest.mark.parametrize("name", ["out_of_memory", "huge"])
def test_out_of_memory_says_what_to_try(mine: Path, name: str) -> None:
    said = optadvise("bench", "adamw", "--workload", f"mine:{name}", *QUICK, "--json", "out.json")
    assert said.code == 4
    assert "oom: " in said.out
    assert "try a smaller network or batch, or an optimizer with less state" in " ".join(said.out.split())
    (found,) = result_in((mine / "out.json").read_text("utf-8"))["arms"]
    assert found["status"] == "oom"
    assert found["peak_memory_bytes"]["process"] > 0
    assert found["step_seconds"]["median"] is None


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("raising", "calling it raised ValueError: no data in this folder"),
        ("nothing", "it returned NoneType; return (module, batches) or (module, batches, loss)"),
        ("absent", "mine has no function 'absent'"),
        ("ending", "batches ended after 1; return a list, a data loader or an endless generator"),
    ],
)
def test_a_wrong_workload_is_one_line_and_no_file(mine: Path, workload: str, message: str) -> None:
    said = optadvise("bench", "adamw", "--workload", f"mine:{workload}", "--threads", "1", "--json", "out.json")
    assert (said.code, said.out) == (2, "")
    assert one_line(said.err).startswith(f"--workload 'mine:{workload}': {message}")
    assert not (mine / "out.json").exists()
    assert workers() == []


def test_a_loss_that_does_not_stay_finite_is_said(mine: Path) -> None:
    said = optadvise("bench", "adamw", "--workload", "mine:diverging", *QUICK, "--json", "out.json")
    assert said.code == 0
    assert "did not stay finite" in said.out
    (found,) = result_in((mine / "out.json").read_text("utf-8"))["arms"]
    assert found["loss"] == {"first": None, "last": None, "finite": False}


def card(tmp_path: Path, **implementation: Any) -> str:
    """Return a folder of rules whose one optimizer has another implementation."""
    folder = tmp_path / "rules"
    (folder / "optimizers").mkdir(parents=True)
    made = "{id: torch, import: torch.optim.SGD, package: torch, devices: [cpu]}"
    assert made in CARD
    words = ", ".join(f"{key}: {value}" for key, value in implementation.items())
    (folder / "optimizers" / "sgd-turbo.yaml").write_text(CARD.replace(made, f"{{{words}}}"), encoding="utf-8")
    return str(folder)


def test_a_missing_package_is_unsupported_with_the_pip_line(tmp_path: Path) -> None:
    rules = card(tmp_path, id="turbo", **{"import": "no_such.SGD"}, package="no-such", devices="[cpu]")
    said = optadvise("bench", "turbo", "--rules", rules, *QUICK, "--json", "-")
    assert said.code == 4
    (found,) = result_in(said.out)["arms"]
    assert (found["status"], found["error"]) == ("unsupported", "no_such.SGD is not installed; pip install no-such")


@pytest.mark.parametrize("text", ["raise ImportError('libcuda.so: not found')", "raise RuntimeError('no driver')", ""])
def test_a_package_that_does_not_import_is_unsupported(mine: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (mine / "broken_optim.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(mine)
    rules = card(mine, id="turbo", **{"import": "broken_optim.SGD"}, package="broken-optim", devices="[cpu]")
    said = optadvise("bench", "turbo", "--rules", rules, "--workload", "mine:plain", *QUICK, "--json", "-")
    assert said.code == 4
    (found,) = result_in(said.out)["arms"]
    assert found["status"] == "unsupported"
    assert found["error"].startswith("broken_optim.SGD cannot be imported (")
    assert found["error"].endswith("; pip install broken-optim")


def test_a_run_where_one_candidate_works_is_no_failure(mine: Path) -> None:
    rules = card(mine, id="turbo", **{"import": "no_such.SGD"}, package="no-such", devices="[cpu]")
    said = optadvise("bench", "turbo", "sgd", "--rules", rules, "--workload", "mine:plain", *QUICK)
    assert said.code == 0
    assert "unsupported: no_such.SGD is not installed; pip install no-such" in " ".join(said.out.split())


def test_what_libraries_print_never_reaches_stdout(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = optadvise("bench", "adamw", "--workload", "mine:chatty", *QUICK, "--json", "-")
    assert said.code == 0, said.err
    assert result_in(said.out)["arms"][0]["status"] == "ok"
    assert "chatter" not in said.out + said.err + "".join(capfd.readouterr())
