"""Constructor arguments of an implementation, including those for a machine without a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark import plan
from optadvise.benchmark.recommendation import plan_recommendation
from optadvise.benchmark.spec import Spec
from optadvise.codegen.write import write_code
from optadvise.core.cards import Implementation, Optimizer
from optadvise.core.json_text import to_json_object
from optadvise.fake_tensors.estimate import request_optimizers
from optadvise.render.documents import build_recommendation
from optadvise.rulebase.catalog import Catalog, load
from optadvise.rulebase.constructor import constructor_kwargs
from optadvise.verify.builder import OptimizerBuilder
from optadvise.verify.target import make_target

IDS = load().optimizer_ids
SPEC, MARK = Spec(), {"marked": True}
FULL = Implementation(
    id="full", path="a.B", package=None, devices=("cpu", "cuda"),
    kwargs={"x": 1, "y": 1, "z": 1, "w": 1}, arguments={"lr": "rate"},
    variants={"fused": {"x": 2, "y": 2, "z": 2}}, cpu_kwargs={"y": 3, "z": 3}, sharding_kwargs={"fsdp": {"z": 4}},
)  # fmt: skip


def test_precedence_of_arguments() -> None:
    kwargs = constructor_kwargs(FULL, {"lr": 0.1, "eps": 0.2}, device="cpu", sharding="fsdp", variant="fused")
    assert kwargs == {"rate": 0.1, "eps": 0.2, "w": 1, "x": 2, "y": 3, "z": 4}
    assert constructor_kwargs(FULL, {}, device="cuda", variant="fused") == {"w": 1, "x": 2, "y": 2, "z": 2}
    assert constructor_kwargs(FULL, {}, device=None) == constructor_kwargs(FULL, {}, device="cuda", sharding="zero1")
    assert constructor_kwargs(FULL, {}, device="cuda", variant="compiled") == FULL.kwargs


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> CompiledRules:
    """Return rules in which every implementation has an additional argument on a machine without a GPU."""
    read_card = Catalog.optimizer

    def optimizer(self: Catalog, name: str) -> Optimizer:
        card = read_card(self, name)
        implementations = tuple(replace(each, cpu_kwargs={**each.cpu_kwargs, **MARK}) for each in card.implementations)
        return replace(card, implementations=implementations)

    monkeypatch.setattr(Catalog, "optimizer", optimizer)
    return CompiledRules(load())


def is_marked(kwargs: Mapping[str, object]) -> bool:
    return MARK.items() <= kwargs.items()


def test_arms_on_a_cpu(marked: CompiledRules) -> None:
    arms = [arm for name in IDS for arm in plan.plan_arms(marked, [name], SPEC, control="adamw", implementation="all")]
    arms += [plan.plan_defaults(marked.catalog.optimizer(name), {}) for name in IDS]
    advices = [advise(marked, {"optimizer": name}) for name in IDS]
    arms += [plan.plan_advice(advice, device="cpu") for advice in advices]
    for advice in advices:
        data = to_json_object(build_recommendation(advice))
        arms += plan_recommendation(marked, data, SPEC, control=None)
    assert all(is_marked(arm.kwargs) for arm in arms)
    companions = [arm.companion for arm in arms if arm.companion is not None]
    assert len(companions) >= 3
    assert all(is_marked(companion.kwargs) for companion in companions)


def test_arms_on_a_gpu(marked: CompiledRules) -> None:
    spec = replace(SPEC, device="cuda")
    for name in IDS:
        (arm,) = plan.plan_arms(marked, [name], spec, control=None, implementation=None)
        assert not is_marked(arm.kwargs)
        assert arm.companion is None or not is_marked(arm.companion.kwargs)


class Recorder(torch.optim.Optimizer):  # type: ignore[misc]
    """Optimizer that stores its arguments."""

    def __init__(self, params: object, **kwargs: object) -> None:
        self.kwargs = kwargs

    def train(self) -> None:
        """Do nothing; schedule-free optimizers have this method."""


def test_traces_and_audits_are_for_a_cpu(marked: CompiledRules) -> None:
    assert all(is_marked(request.kwargs) for request in request_optimizers(marked, list(IDS)))
    for name in IDS:
        card = marked.catalog.optimizer(name)
        builder = OptimizerBuilder(make_target(marked.catalog, card, card.implementations[0]), Recorder)
        assert is_marked(builder.build([]).kwargs)


def test_programs_pass_cpu_arguments(marked: CompiledRules) -> None:
    for name in IDS:
        advice = advise(marked, {"optimizer": name})
        assert not is_marked(advice.kwargs)
        assert "marked" in write_code(marked, advice, "python").text, name


def test_steps_of_the_run_are_arguments() -> None:
    implementation = replace(FULL, step_arguments=("ramp",))
    assert constructor_kwargs(implementation, {}, device=None, steps=50) == {**FULL.kwargs, "ramp": 50}
    assert constructor_kwargs(implementation, {}, device=None) == FULL.kwargs
    rules = CompiledRules(load())
    advice = advise(rules, {"optimizer": "ademamix", "model": "transformer", "steps": 700})
    assert (advice.kwargs["t_alpha"], advice.kwargs["t_beta3"]) == (700, 700)
    for framework in ("python", "hf", "accelerate", "lightning", "snippet"):
        assert "t_alpha=total_steps" in write_code(rules, advice, framework).text, framework


@pytest.mark.parametrize(
    ("optimizer", "name", "pretraining", "otherwise"),
    [
        ("ademamix", "betas", [0.9, 0.999, 0.999], [0.9, 0.999, 0.9999]),
        ("ademamix", "alpha", 8, 5),
        ("schedule-free-adamw", "betas", [0.9, 0.9999], [0.9, 0.999]),
    ],
)
def test_tuned_values_of_language_models(optimizer: str, name: str, pretraining: object, otherwise: object) -> None:
    rules = CompiledRules(load())
    values = {"pretrain": pretraining, "finetune": otherwise}
    for task, value in values.items():
        assert advise(rules, {"optimizer": optimizer, "model": "transformer", "task": task}).kwargs[name] == value
    assert advise(rules, {"optimizer": optimizer, "model": "vit"}).kwargs[name] == otherwise
