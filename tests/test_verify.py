"""`optadvise verify`: mistakes that were planted are found, and what is sound is not accused."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
import time
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
from tests.bench import ended, started
from tests.cli import optadvise
from tests.conftest import ROOT
from tests.test_catalog import CARD

CATALOG = load()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- the reference itself --------------------------------------------------------------------------------------------


def walked(name: str, gradients: list[float], start: float = 1.0, **numbers: Any) -> list[float]:
    given = {h.name: h.default for h in CATALOG.optimizer(name).hyperparameters} | {"weight_decay": 0.0} | numbers
    path = run_method(METHODS[name], torch.tensor([start]), lambda theta, t: torch.tensor([gradients[t - 1]]).double(),
                  len(gradients), given)  # fmt: skip
    return [float(theta[0]) for theta in path]


def test_the_reference_is_what_can_be_worked_out_by_hand() -> None:
    """Closed forms: not another program, so that both cannot be wrong in the same way."""
    assert walked("sgd", [0.5, 0.5], lr=0.1) == pytest.approx([0.95, 0.9])
    # Momentum under a constant gradient: the velocity is g·(1 − μᵗ) / (1 − μ).
    assert walked("sgd-momentum", [1.0] * 3, lr=0.1, momentum=0.5) == pytest.approx([0.9, 0.75, 0.575])
    assert walked("sgd-nesterov", [1.0], lr=0.1, momentum=0.5) == pytest.approx([0.85])
    # Adam under a constant gradient steps by lr each time, whatever the gradient's size (Kingma and Ba, section 2.1).
    for size in (1e-3, 1.0, 1e3):
        assert walked("adamw", [size] * 4, lr=0.1, eps=0.0) == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert walked("adam", [1.0], lr=0.1, eps=1.0) == pytest.approx([0.95])
    # Decoupled decay multiplies by 1 − lr·λ; coupled decay enters the gradient, whose size Adam takes out again.
    assert walked("adamw", [0.0], lr=0.1, weight_decay=0.5) == pytest.approx([0.95])
    assert walked("adam", [0.0], lr=0.1, weight_decay=0.5, eps=0.0) == pytest.approx([0.9])
    assert walked("lion", [3.0, -1e-3], lr=0.1, betas=[0.9, 0.99]) == pytest.approx([0.9, 0.8])
    assert walked("adagrad", [2.0, 2.0], lr=1.0, eps=0.0) == pytest.approx([0.0, -1 / math.sqrt(2)])
    assert walked("rmsprop", [2.0], lr=0.1, alpha=0.99, eps=0.0) == pytest.approx([0.0])
    # LAMB steps by lr times the weight's own norm; LARS by its coefficient times that.
    assert walked("lamb", [5.0], start=2.0, lr=0.1, eps=0.0) == pytest.approx([1.8])
    assert walked("lars", [5.0], start=2.0, lr=1.0, momentum=0.0, trust_coefficient=0.01) == pytest.approx([1.98])


# -- planted mistakes ------------------------------------------------------------------------------------------------


class Own(torch.optim.Optimizer):  # type: ignore[misc]
    """AdamW as its paper says, with a place for each mistake."""

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
        found = super().state_dict()
        if self.forgets:
            for state in found["state"].values():
                state["t"] = 0
        return found


class Momentum(torch.optim.SGD):  # type: ignore[misc]
    dampened = looks_ahead = False

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 1e-4) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=self.looks_ahead,
                         dampening=0.9 if self.dampened else 0.0)  # fmt: skip


def planted(base: type, **mistake: Any) -> type:
    return type("Planted", (base,), mistake)


PLANTED = [
    ("adamw", planted(Own, swapped=True), "swaps the betas"),
    ("adamw", planted(Own, uncorrected=True), "corrects neither moment"),
    ("adamw", planted(Own, second_uncorrected=True), "does not correct the second moment"),
    ("adamw", planted(Own, coupled=True), "couples the decay"),
    ("adamw", planted(Own, inside=True), "eps inside the root"),
    ("adamw", planted(Own, late=-1), "counts steps from 0"),
    ("adamw", planted(Own, late=1), "a step too many"),
    ("adamw", planted(Own, unscaled=True), "does not multiply the decay by the rate"),
    ("adamw", planted(Own, no_decay=True), "ignores the weight decay"),
    ("adam", planted(Own), "decouples the decay"),
    ("adamw", planted(Own, first_group=True), "takes the first group's learning rate for all"),
    ("adamw", planted(Own, forgets=True), "goes on otherwise than if it had not stopped"),
    ("adamw", planted(Own, moves_without=True), "moves a weight that has no gradient"),
    ("adamw", planted(Own, poisons=True), "spreads to the weights whose gradient is sound"),
    ("sgd-momentum", planted(Momentum, dampened=True), "dampens the gradient"),
    ("sgd-momentum", planted(Momentum, looks_ahead=True), "Nesterov"),
    ("sgd-nesterov", planted(Momentum), "does not look ahead"),
    ("lamb", planted(Own), "computes adamw's step"),
]


def audited(name: str, made: type, path: str = "own.Made") -> AuditResult:
    card = CATALOG.optimizer(name)
    entry = audit_run.AuditEntry(target.make_target(CATALOG, card, target.describe_user_class(card, path)))
    return audit_run.judge_audit(entry, audit(entry.target, made))


@pytest.mark.parametrize(("name", "made", "words"), PLANTED, ids=[words for *_, words in PLANTED])
def test_a_planted_mistake_is_found_and_named(name: str, made: type, words: str) -> None:
    result = audited(name, made)
    assert result.verdict == findings.DEVIATES
    assert words in str(result.why)
    assert not result.expected


@pytest.mark.parametrize(
    ("name", "made"),
    [("adamw", Own), ("sgd-momentum", Momentum), ("sgd-nesterov", planted(Momentum, looks_ahead=True))],
)
def test_the_same_without_a_mistake_is_not_accused(name: str, made: type) -> None:
    result = audited(name, made)
    assert (result.verdict, result.why) == (findings.CONFORMS, None)


def test_nothing_sound_in_torch_is_accused() -> None:
    entries = [
        entry
        for entry in audit_run.list_entries(CATALOG, CATALOG.optimizer_ids)
        if entry.target.implementation.package == "torch"
    ]
    assert len(entries) >= 12
    for result in audit_run.run_audits(entries):
        assert (result.verdict, result.why) == (findings.CONFORMS, None), result.path


def test_what_was_known_is_found_again() -> None:
    """Measured before there was an audit (the cards' notes), and found by it without being told."""
    entries = audit_run.list_entries(CATALOG, ["lamb", "lars", "ademamix"])
    results = {result.path.rsplit(".", 1)[1]: result for result in audit_run.run_audits(entries)}
    assert results["LAMB8bit"].known_deviation == "computes adamw's step, where its state is quantised"
    assert results["LARS8bit"].known_deviation == "computes sgd-momentum's step, where its state is quantised"
    zero = next(scenario for scenario in results["LAMB"].scenarios if scenario.name == "zero")
    assert zero.deviation == pytest.approx(1.0, abs=0.01)  # it never moves
    assert results["AdEMAMix32bit"].verdict == findings.FAILS
    assert results["AdEMAMix"].verdict == findings.CONFORMS


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_tells_and_writes(tmp_path: Path) -> None:
    file, page = tmp_path / "audit.json", tmp_path / "audit.md"
    said = optadvise("verify", "adamw8bit", "sgd", "--json", str(file), "--markdown", str(page))
    assert said.code == 0
    assert "within quantisation" in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines())
    data = json.loads(file.read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "docs" / "schema" / "verify.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, schema)
    assert {one["optimizer"] for one in data["audits"]} == {"adamw8bit", "sgd"}
    assert "| `sgd` | `torch.optim.SGD` |" in page.read_text(encoding="utf-8")
    assert json.loads(optadvise("verify", "sgd", "--json", "-").out)["kind"] == "verify"


def test_somebodys_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
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
            class Keeps(torch.optim.AdamW):
                kept = {}
                def state_dict(self):
                    told = super().state_dict()
                    Keeps.kept.update(told["state"])
                    return {**told, "state": {}}
                def load_state_dict(self, told):
                    super().load_state_dict({**told, "state": Keeps.kept})
            def function(params): pass
        """),
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, code, words in (
        ("Good", 0, "conforms"), ("Bad", 1, "swaps the betas"), ("Raises", 1, "not today"),
        ("Dies", 1, "ended its process with code 7"), ("NoDecay", 1, "takes no weight_decay"),
        ("Keeps", 1, "saving and loading in another process: goes on otherwise"),
        ("function", 4, "is no Optimizer of torch"), ("Missing", 4, "install its package, or run this in the"),
    ):  # fmt: skip
        said = optadvise("verify", "--import", f"mine.{name}", "--as", "adamw")
        assert (said.code, words in " ".join(said.out.split())) == (code, True), (name, said)
    said = optadvise("verify", "--import", "mine.Hangs", "--as", "adamw", "--timeout", "8")
    assert (said.code, "gave no answer within 8 seconds" in " ".join(said.out.split())) == (1, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--import mine.Own", "--as"), ("--as adamw", "--import"), ("--import nodots --as adamw", "no import path"),
        ("--import a.B --as adamx", "not known"), ("adamx", "not known"), ("--import a.B --as adamw lion", "leave"),
        ("sgd --timeout 0", "above 0"), ("sgd --json no/such/x.json", "no folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(line: str, words: str) -> None:
    said = optadvise("verify", *line.split())
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert words in said.err


def test_an_optimizer_without_a_reference_is_not_accused(tmp_path: Path) -> None:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "sgd-turbo.yaml").write_text(CARD, encoding="utf-8")
    said = optadvise("verify", "turbo", "--rules", str(tmp_path))
    assert said.code == 4, said.err
    assert "sgd-turbo has no reference to be compared with" in said.out
    assert "Not what its name says" not in said.out


def test_a_worker_that_dies_does_not_take_the_others_with_it() -> None:
    entries = audit_run.list_entries(CATALOG, ["sgd", "adamw"])
    results = list(audit_run.run_audits(entries, command=(sys.executable, "-c", "raise SystemExit(3)")))
    assert [result.verdict for result in results] == [findings.FAILS] * len(entries)
    assert all("code 3" in str(result.why) for result in results)


FORKS = """
import os, subprocess, time, torch
class Forks(torch.optim.AdamW):
    def step(self, closure=None):
        child = subprocess.Popen(["sleep", "600"])
        with open("pids.tmp", "w") as file:
            print(os.getpid(), child.pid, file=file)
        os.rename("pids.tmp", "pids")
        time.sleep(600)
"""


@pytest.mark.parametrize("timeout", ["20", "600"], ids=["timeout", "kill -9"])
def test_no_process_outlives_an_audit(tmp_path: Path, timeout: str) -> None:
    """Neither the worker nor what the class under audit has started."""
    (tmp_path / "mine.py").write_text(FORKS, encoding="utf-8")
    process = started("verify", "--import", "mine.Forks", "--as", "adamw", "--timeout", timeout, folder=tmp_path,
                      PYTHONPATH=os.pathsep.join((str(ROOT), str(tmp_path))))  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "pids").exists() and time.monotonic() < until:
            time.sleep(0.1)
        if timeout == "600":
            process.kill()
        process.communicate(timeout=60)
        assert ended([int(pid) for pid in (tmp_path / "pids").read_text("utf-8").split()])
    finally:
        process.kill()
        process.communicate()
