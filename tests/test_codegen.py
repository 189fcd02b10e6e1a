"""Generated code runs as printed, and does what the advice says."""

from __future__ import annotations

import contextlib
import importlib
import io
import runpy
from pathlib import Path
from typing import Any

import pytest

from optadvise.advisor import Advisor
from optadvise.catalog import load
from optadvise.codegen.python import plain_torch
from optadvise.domain import Recommendation
from optadvise.errors import RuleFileError
from optadvise.schedules import advise

CATALOG = load()
SITUATIONS: list[dict[str, Any]] = [
    {"model": "transformer"}, {"model": "cnn"}, {"model": "rnn"}, {"model": "rl"},
    {"model": "cnn", "priority": "speed"},
    {"model": "diffusion"}, {"precision": "fp32"}, {"precision": "bf16"}, {"precision": "amp-fp16"}, {"steps": 1},
    {"steps": 3}, {"model": "transformer", "method": "lora"}, {"model": "transformer", "optimizer": "adafactor"},
]  # fmt: skip


def execute(code: str, folder: Path) -> dict[str, Any]:
    """Run a generated program and return its globals; what it prints has to show a loss."""
    file = folder / "train.py"
    file.write_text(code, encoding="utf-8")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        names = runpy.run_path(str(file))
    assert "loss" in out.getvalue()
    return names


def installed(advice: Recommendation) -> bool:
    try:
        module, name = advice.implementation.path.rsplit(".", 1)
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CATALOG.optimizer_ids)
def test_the_snippet_runs_for_every_installed_optimizer(advisor: Advisor, tmp_path: Path, name: str) -> None:
    advice = advisor.recommend(advisor.situation({"model": "transformer", "optimizer": name}))
    code = plain_torch(advice)
    compile(code, name, "exec")
    if not installed(advice):
        pytest.skip(
            f"{advice.implementation.path} cannot be imported here: pip install {advice.implementation.package}"
        )
    names = execute(code, tmp_path)
    group = names["optimizer"].param_groups[0]
    assert float(group["initial_lr"]) == pytest.approx(advice.kwargs["lr"])
    for key in ("betas", "weight_decay", "momentum"):
        if key in advice.kwargs and key in group:
            value = advice.kwargs[key]
            assert group[key] == pytest.approx(tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_the_snippet_runs_in_every_situation(advisor: Advisor, tmp_path: Path, answers: dict[str, Any]) -> None:
    execute(plain_torch(advisor.recommend(advisor.situation(answers))), tmp_path)


def test_biases_and_norms_get_no_decay(advisor: Advisor, tmp_path: Path) -> None:
    names = execute(plain_torch(advisor.recommend(advisor.situation({"model": "transformer"}))), tmp_path)
    decayed, free = names["optimizer"].param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(names["model"].parameters()))


@pytest.mark.parametrize("name", CATALOG.scheduler_ids)
def test_every_schedule_runs_to_its_end_and_never_above_its_peak(advisor: Advisor, tmp_path: Path, name: str) -> None:
    advice = advisor.recommend(advisor.situation({"model": "transformer", "optimizer": "sgd", "precision": "fp32"}))
    schedule = advise(CATALOG.scheduler(name), 0.1, 20, 0.2, {})
    names = execute(plain_torch(advice._replace(schedule=schedule, kwargs={**advice.kwargs, "lr": 0.1})), tmp_path)
    import torch

    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = names["schedule"](optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.1, rel=0.06)
    assert min(rates) >= 0
    card = CATALOG.scheduler(name)
    if card.warmup:
        assert rates[0] < 0.5 * max(rates)
    if card.family == "hold":
        assert rates[-1] == pytest.approx(0.1)
    elif card.family not in ("inverse",):
        assert rates[-1] < 0.3 * max(rates)


def test_values_from_rules_cannot_become_code(advisor: Advisor) -> None:
    advice = advisor.recommend(advisor.situation({}))
    evil = "1); import os; os.abort("
    written = plain_torch(advice._replace(kwargs={**advice.kwargs, "eps": evil}))
    assert repr(evil) in written
    for broken in (
        advice._replace(kwargs={**advice.kwargs, "x=1); import os #": 1}),
        advice._replace(implementation=advice.implementation._replace(path="os; import sys.x")),
    ):
        with pytest.raises(RuleFileError):
            plain_torch(broken)
    hostile = advice.optimizer._replace(name="AdamW\nimport os")
    assert "\nimport os" not in plain_torch(advice._replace(optimizer=hostile)).replace("\nimport torch", "")
