"""Learning rates of schedules, compared with those of PyTorch's schedulers."""

from __future__ import annotations

import warnings

import pytest
import torch
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark.optimizer_builder import build_scheduler
from optadvise.benchmark.plan import plan_advice
from optadvise.core.advice_records import Recommendation
from optadvise.core.schedules import compute_lr, resolve_schedule
from optadvise.rulebase.catalog import load

CATALOG = load()


def list_torch_lrs(advice: Recommendation, steps: int) -> list[float]:
    peak = advice.kwargs["lr"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=float(str(peak)))
    scheduler = build_scheduler(plan_advice(advice), optimizer)
    assert scheduler is not None
    learning_rates = []
    for _ in range(steps):
        learning_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():  # of SequentialLR in PyTorch itself
            warnings.simplefilter("ignore")
            scheduler.step()
    return learning_rates


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 97])
@pytest.mark.parametrize("name", CATALOG.scheduler_ids)
def test_learning_rates_equal_those_of_torch(rules: CompiledRules, name: str, steps: int) -> None:
    schedule = resolve_schedule(CATALOG.scheduler(name), 0.3, steps, 0.2, {})
    advice = advise(rules, {"optimizer": "sgd"})
    advice = replace(advice, schedule=schedule, kwargs={**advice.kwargs, "lr": 0.3})
    assert [compute_lr(schedule, 0.3, step) for step in range(steps)] == pytest.approx(
        list_torch_lrs(advice, steps), rel=1e-6, abs=1e-12
    )
