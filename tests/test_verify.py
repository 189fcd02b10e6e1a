"""`optadvise verify`: audits detect injected errors and accept correct implementations."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from optadvise.core import findings
from optadvise.rulebase.catalog import load
from optadvise.verify import audit_run, target
from optadvise.verify.audit import audit
from optadvise.verify.records import AuditResult
from optadvise.verify.reference import METHODS, run_method
from tests.bench import await_end_of_processes_in
from tests.cli import optadvise
from tests.conftest import ROOT, rotated
from tests.test_catalog import CARD

CATALOG = load()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- reference --------------------------------------------------------------------------------------------------------


def run_reference(name: str, gradients: list[float], start: float = 1.0, **numbers: Any) -> list[float]:
    hyperparameters = (
        {h.name: h.default for h in CATALOG.optimizer(name).hyperparameters} | {"weight_decay": 0.0} | numbers
    )
    path = run_method(METHODS[name], torch.tensor([start]), lambda theta, t: torch.tensor([gradients[t - 1]]).double(),
                  len(gradients), hyperparameters)  # fmt: skip
    return [float(theta[0]) for theta in path]


def test_reference_equals_closed_forms() -> None:
    assert run_reference("sgd", [0.5, 0.5], lr=0.1) == pytest.approx([0.95, 0.9])
    # Momentum under a constant gradient: the velocity is g·(1 − μᵗ) / (1 − μ).
    assert run_reference("sgd-momentum", [1.0] * 3, lr=0.1, momentum=0.5) == pytest.approx([0.9, 0.75, 0.575])
    assert run_reference("sgd-nesterov", [1.0], lr=0.1, momentum=0.5) == pytest.approx([0.85])
    # Adam with a constant gradient moves by lr per step (Kingma and Ba, section 2.1).
    for size in (1e-3, 1.0, 1e3):
        assert run_reference("adamw", [size] * 4, lr=0.1, eps=0.0) == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert run_reference("adam", [1.0], lr=0.1, eps=1.0) == pytest.approx([0.95])
    # Decoupled decay multiplies by 1 − lr·λ; coupled decay is part of the gradient, which Adam normalizes.
    assert run_reference("adamw", [0.0], lr=0.1, weight_decay=0.5) == pytest.approx([0.95])
    assert run_reference("adam", [0.0], lr=0.1, weight_decay=0.5, eps=0.0) == pytest.approx([0.9])
    assert run_reference("lion", [3.0, -1e-3], lr=0.1, betas=[0.9, 0.99]) == pytest.approx([0.9, 0.8])
    assert run_reference("adagrad", [2.0, 2.0], lr=1.0, eps=0.0) == pytest.approx([0.0, -1 / math.sqrt(2)])
    assert run_reference("rmsprop", [2.0], lr=0.1, alpha=0.99, eps=0.0) == pytest.approx([0.0])
    # LAMB moves by lr times the norm of the weight; LARS by its coefficient times that.
    assert run_reference("lamb", [5.0], start=2.0, lr=0.1, eps=0.0) == pytest.approx([1.8])
    assert run_reference("lars", [5.0], start=2.0, lr=1.0, momentum=0.0, trust_coefficient=0.01) == pytest.approx(
        [1.98]
    )


# -- injected errors --------------------------------------------------------------------------------------------------


class FaultyAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """AdamW with switches for errors."""

    swapped = uncorrected = second_uncorrected = coupled = inside = first_group = unscaled = forgets = False
    no_decay = moves_without = poisons = False
    late = 0

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            b1, b2 = reversed(group["betas"]) if self.swapped else group["betas"]
            lr = self.param_groups[0]["lr"] if self.first_group else group["lr"]
            decay = 0.0 if self.no_decay else group["weight_decay"]
            for p in group["params"]:
                g = p.grad
                if g is None:
                    if not self.moves_without:
                        continue
                    g = torch.ones_like(p)
                s = self.state[p]
                if not s:
                    s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                s["t"] += 1
                g = g + decay * p if self.coupled else g
                s["m"] = b1 * s["m"] + (1 - b1) * g
                s["v"] = b2 * s["v"] + (1 - b2) * g * g
                n = s["t"] + self.late
                m = s["m"] if self.uncorrected or n < 1 else s["m"] / (1 - b1**n)
                v = s["v"] if self.uncorrected or self.second_uncorrected or n < 1 else s["v"] / (1 - b2**n)
                u = m / ((v + group["eps"]).sqrt() if self.inside else v.sqrt() + group["eps"])
                if not self.coupled:
                    p.mul_(1 - (1.0 if self.unscaled else lr) * decay)
                p.sub_(lr * u)
        if self.poisons and any(not p.isfinite().all() for g in self.param_groups for p in g["params"]):
            for group in self.param_groups:
                for p in group["params"]:
                    p.fill_(math.nan)

    def state_dict(self) -> Any:
        state_dict = super().state_dict()
        if self.forgets:
            for state in state_dict["state"].values():
                state["t"] = 0
        return state_dict


class Momentum(torch.optim.SGD):  # type: ignore[misc]
    dampened = looks_ahead = False

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 1e-4) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=self.looks_ahead,
                         dampening=0.9 if self.dampened else 0.0)  # fmt: skip


def with_error(base: type, **switches: Any) -> type:
    return type("Faulty", (base,), switches)


FAULTY = [
    ("adamw", with_error(FaultyAdamW, swapped=True), "swaps the betas"),
    ("adamw", with_error(FaultyAdamW, uncorrected=True), "has no bias correction"),
    ("adamw", with_error(FaultyAdamW, second_uncorrected=True), "has no bias correction of the second moment"),
    ("adamw", with_error(FaultyAdamW, coupled=True), "applies coupled instead of decoupled weight decay"),
    ("adamw", with_error(FaultyAdamW, inside=True), "adds eps inside the square root"),
    ("adamw", with_error(FaultyAdamW, late=-1), "counts steps from 0 in the bias correction"),
    ("adamw", with_error(FaultyAdamW, late=1), "counts one step too many in the bias correction"),
    ("adamw", with_error(FaultyAdamW, unscaled=True), "does not multiply the weight decay by the learning rate"),
    ("adamw", with_error(FaultyAdamW, no_decay=True), "ignores the weight decay"),
    ("adam", with_error(FaultyAdamW), "applies decoupled instead of coupled weight decay"),
    ("adamw", with_error(FaultyAdamW, first_group=True), "parameter groups"),
    ("adamw", with_error(FaultyAdamW, forgets=True), "saving and loading"),
    ("adamw", with_error(FaultyAdamW, moves_without=True), "a missing gradient"),
    ("adamw", with_error(FaultyAdamW, poisons=True), "a NaN gradient"),
    ("sgd-momentum", with_error(Momentum, dampened=True), "dampens the gradient that enters the velocity"),
    ("sgd-momentum", with_error(Momentum, looks_ahead=True), "computes Nesterov momentum"),
    ("sgd-nesterov", with_error(Momentum), "computes plain instead of Nesterov momentum"),
    ("lamb", with_error(FaultyAdamW), "computes adamw"),
]


def audit_class(name: str, optimizer_class: type, path: str = "own.Made") -> AuditResult:
    card = CATALOG.optimizer(name)
    entry = audit_run.AuditEntry(target.make_target(CATALOG, card, target.describe_user_class(card, path)))
    return audit_run.judge_audit(entry, audit(entry.target, optimizer_class))


@pytest.mark.parametrize(("name", "optimizer_class", "problem"), FAULTY, ids=[problem for *_, problem in FAULTY])
def test_injected_error_is_identified(name: str, optimizer_class: type, problem: str) -> None:
    """A deviation from the equation is identified by name, other errors by the check that fails."""
    result = audit_class(name, optimizer_class)
    assert result.verdict == findings.DEVIATES
    failed_checks = [check.name for check in result.checks if check.verdict != "ok"]
    assert result.known_deviation == problem or failed_checks == [problem]
    assert result.why
    assert not result.expected


@pytest.mark.parametrize(
    ("name", "optimizer_class"),
    [("adamw", FaultyAdamW), ("sgd-momentum", Momentum), ("sgd-nesterov", with_error(Momentum, looks_ahead=True))],
)
def test_correct_class_conforms(name: str, optimizer_class: type) -> None:
    result = audit_class(name, optimizer_class)
    assert (result.verdict, result.why) == (findings.CONFORMS, None)


def test_optimizers_of_torch_conform() -> None:
    entries = [
        entry
        for entry in audit_run.list_entries(CATALOG, CATALOG.optimizer_ids)
        if entry.target.implementation.package == "torch"
    ]
    assert len(entries) >= 12
    for result in audit_run.run_audits(entries):
        assert (result.verdict, result.why) == (findings.CONFORMS, None), result.path


def test_audit_finds_deviations_in_packages() -> None:
    """The audit finds deviations that were first measured by hand and are noted on the cards."""
    entries = audit_run.list_entries(CATALOG, ["lamb", "lars", "ademamix"])
    results = {result.path.rsplit(".", 1)[1]: result for result in audit_run.run_audits(entries)}
    assert results["LAMB8bit"].known_deviation == "computes adamw where its state is quantized"
    assert results["LARS8bit"].known_deviation == "computes sgd-momentum where its state is quantized"
    zero = next(scenario for scenario in results["LAMB"].scenarios if scenario.name == "zero")
    assert zero.deviation == pytest.approx(1.0, abs=0.01)  # it does not move
    assert results["AdEMAMix32bit"].verdict == findings.FAILS
    assert results["AdEMAMix"].verdict == findings.CONFORMS


# -- command ----------------------------------------------------------------------------------------------------------


def test_command_prints_and_writes_files(tmp_path: Path) -> None:
    file, page = tmp_path / "audit.json", tmp_path / "audit.md"
    result = optadvise("verify", "adamw8bit", "sgd", "--json", str(file), "--markdown", str(page))
    assert result.code == 0
    assert all(len(line) <= 80 for line in result.out.splitlines())
    data = json.loads(file.read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "docs" / "schema" / "verify.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, schema)
    assert {audit["optimizer"]: audit["verdict"] for audit in data["audits"]} == {
        "adamw8bit": findings.QUANTISED, "sgd": findings.CONFORMS,
    }  # fmt: skip
    assert "| `sgd` | `torch.optim.SGD` |" in page.read_text(encoding="utf-8")
    assert json.loads(optadvise("verify", "sgd", "--json", "-").out)["kind"] == "verify"


USER_CLASSES = """
import os, time, torch
print("noise")
class Good(torch.optim.AdamW):
    pass
class Bad(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr=lr, betas=betas[::-1], eps=eps, weight_decay=weight_decay)
class Raises(torch.optim.AdamW):
    def step(self, closure=None):
        raise RuntimeError("not today\\nat all")
class Dies(torch.optim.AdamW):
    def step(self, closure=None):
        os._exit(7)
class Hangs(torch.optim.AdamW):
    def step(self, closure=None):
        time.sleep(60)
class NoDecay(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=0.0)
class SharesState(torch.optim.AdamW):
    shared = {}
    def state_dict(self):
        state_dict = super().state_dict()
        SharesState.shared.update(state_dict["state"])
        return {**state_dict, "state": {}}
    def load_state_dict(self, state_dict):
        super().load_state_dict({**state_dict, "state": SharesState.shared})
def function(params): pass
"""


@pytest.fixture
def user_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder with the classes of a user."""
    (tmp_path / "mine.py").write_text(USER_CLASSES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "verdict", "detail"),
    rotated(
        3,
        [
            ("Good", findings.CONFORMS, ""),
            ("Raises", findings.FAILS, "RuntimeError: not today"),
            ("SharesState", findings.DEVIATES, "saving and loading in another process"),
            ("Bad", findings.DEVIATES, "swaps the betas"),
            ("Dies", findings.FAILS, "code 7"),
            ("Hangs", findings.FAILS, "8 s"),
            ("NoDecay", findings.DEVIATES, "weight_decay"),
        ],
    ),
)
def test_user_class(user_classes: Path, name: str, verdict: str, detail: str) -> None:
    options = ["--timeout", "8"] if name == "Hangs" else []
    command = ("verify", "--import", f"mine.{name}", "--as", "adamw", "--json", "audit.json", *options)
    code = optadvise(*command).code
    (entry,) = json.loads((user_classes / "audit.json").read_text(encoding="utf-8"))["audits"]
    assert (code, entry["verdict"]) == (int(verdict != findings.CONFORMS), verdict), entry
    assert detail in (entry["why"] or "")


@pytest.mark.parametrize("name", ["function", "Missing"])
@pytest.mark.usefixtures("user_classes")
def test_name_that_is_no_class(name: str) -> None:
    result = optadvise("verify", "--import", f"mine.{name}", "--as", "adamw")
    assert result.failure is not None
    assert (result.code, result.failure.option) == (4, "--import")


@pytest.mark.parametrize(
    ("line", "code", "option"),
    [
        ("--import mine.Own", "missing-option", "--as"), ("--as adamw", "missing-option", "--import"),
        ("--import nodots --as adamw", "invalid-value", "--import"),
        ("--import a.B --as adamx", "unknown-name", "--as"), ("adamx", "unknown-name", None),
        ("--import a.B --as adamw lion", "option-conflict", "--import"),
        ("sgd --timeout 0", "out-of-range", "--timeout"),
        ("sgd --json no/such/x.json", "file-not-writable", "--json"),
    ],
)  # fmt: skip
def test_invalid_command_line(line: str, code: str, option: str) -> None:
    result = optadvise("verify", *line.split())
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert result.failure is not None
    assert (result.failure.code, result.failure.option) == (code, option)


def test_optimizer_without_a_reference(tmp_path: Path) -> None:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "sgd-turbo.yaml").write_text(CARD, encoding="utf-8")
    file = tmp_path / "audit.json"
    result = optadvise("verify", "turbo", "--rules", str(tmp_path), "--json", str(file))
    assert result.code == 4, result.err
    (entry,) = json.loads(file.read_text(encoding="utf-8"))["audits"]
    assert (entry["optimizer"], entry["verdict"], entry["expected"]) == ("sgd-turbo", findings.ABSENT, True)


def test_dead_worker_is_replaced() -> None:
    entries = audit_run.list_entries(CATALOG, ["sgd", "adamw"])
    results = list(audit_run.run_audits(entries, command=(sys.executable, "-c", "raise SystemExit(3)")))
    assert [result.verdict for result in results] == [findings.FAILS] * len(entries)
    assert all("code 3" in str(result.why) for result in results)


# Classes by name, with the code that runs in their constructor and in each step.
HOSTILE = {
    "ForksAtTheStart": ("os.fork()", "pass"),
    "ForksInItsSteps": ("pass", "next(STEPS) > 10 or os.fork()"),
    "WaitsForChildren": ("wait_for_children()", "pass"),
    "WritesIntoPipes": ("write_into_files()", "pass"),
    "ClosesFiles": ("os.closerange(0, 20); time.sleep(600)", "pass"),
    "StartsDaemons": ("start_daemon(); os._exit(3)", "pass"),
    "HoldsPythonsLock": ("signal.signal(15, signal.SIG_IGN); os.fork(); ctypes.PyDLL(None).sleep(600)", "pass"),
}
HOSTILE_MODULE = """
import ctypes, itertools, os, signal, subprocess, time, torch

STEPS = itertools.count()

def wait_for_children():
    subprocess.Popen(["true"])
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass

def write_into_files():
    for number in range(3, 30):
        try:
            os.write(number, b"garbage\\n" * 1000)
        except OSError:
            pass

def start_daemon():
    if os.fork() == 0:
        os.setsid()
        time.sleep(2)  # with the worker's stdout
        os._exit(0)
"""


def test_hostile_classes_end_in_time_and_leave_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [
        f"class {name}(torch.optim.AdamW):\n    def __init__(self, *args, **kwargs):\n        {constructor}\n"
        f"        super().__init__(*args, **kwargs)\n    def step(self):\n        {step}\n        super().step()\n"
        for name, (constructor, step) in HOSTILE.items()
    ]
    (tmp_path / "hostile.py").write_text("\n".join([HOSTILE_MODULE, *classes]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    entries = [audit_run.enter_user_class(CATALOG, f"hostile.{name}", "adamw") for name in HOSTILE]
    results = [*audit_run.run_audits(entries[:-1]), *audit_run.run_audits(entries[-1:], timeout=3)]
    conforms = [result.implementation for result in results if result.verdict == findings.CONFORMS]
    assert conforms == ["ForksAtTheStart", "ForksInItsSteps", "WaitsForChildren"]
    reasons = ("invalid message", "stopped responding", "code 3", "within 3 s")
    for result, reason in zip(results[3:], reasons, strict=True):
        assert (result.verdict, reason in str(result.why)) == (findings.FAILS, True), result
    assert await_end_of_processes_in(tmp_path, seconds=5)  # 2, and 3 for the daemon, which has left the worker's group
