"""From names, or a recommendation, to arms: what runs is what was said, with the card's arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import pytest
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark import plan
from optadvise.benchmark.recommendation import plan_recommendation
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.errors import InputError
from optadvise.rulebase.catalog import Catalog, load
from tests.cli import optadvise

IDS = load().optimizer_ids
SPEC = Spec()


def planned(
    rules: CompiledRules, *names: str, control: str | None = None, implementation: str | None = None, **spec: Any
) -> list[Arm]:
    return plan.plan_arms(rules, names, Spec(**spec), control=control, implementation=implementation)


def roles(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    return [(arm.label, arm.role) for arm in arms]


def test_the_control_runs_beside_the_candidates_even_where_it_is_the_same(rules: CompiledRules) -> None:
    assert roles(planned(rules, "lion", control="adamw")) == [("lion", "candidate"), ("adamw (control)", "control")]
    assert roles(planned(rules, "adamw", control="adamw")) == [("adamw", "candidate"), ("adamw (control)", "control")]
    assert roles(planned(rules, "lion", control=None)) == [("lion", "candidate")]


def test_a_control_that_is_measured_anyway_is_measured_once(rules: CompiledRules) -> None:
    assert roles(planned(rules, "lion", "adamw", control="adamw")) == [("lion", "candidate"), ("adamw", "control")]


def test_a_name_given_twice_runs_once(rules: CompiledRules) -> None:
    assert roles(planned(rules, "lion", "lion")) == [("lion", "candidate")]


@pytest.mark.parametrize("name", IDS)
def test_every_way_of_computing_an_optimizer_has_its_own_label_and_its_cards_arguments(
    rules: CompiledRules, catalog: Catalog, name: str
) -> None:
    card = catalog.optimizer(name)
    arms = planned(rules, name, control="adamw", implementation="all")
    assert len({arm.label for arm in arms}) == len(arms)
    assert sum(arm.role == "control" for arm in arms) == 1
    for arm in (arm for arm in arms if arm.optimizer == name):
        made = next(i for i in card.implementations if i.path == arm.path)
        own = {made.arguments.get(h.name, h.name) for h in card.hyperparameters}
        fixed = {**made.kwargs, **(made.variants[arm.variant] if arm.variant else {}), **made.cpu_kwargs}
        assert set(arm.kwargs) == own | set(fixed)
        assert {key: arm.kwargs[key] for key in fixed} == fixed
        assert (arm.package, arm.matrices_only) == (made.package, made.tensors == "matrix")
        decays = card.hyperparameter("weight_decay") is not None
        assert arm.decay_argument == (made.arguments.get("weight_decay", "weight_decay") if decays else None)
        assert json.loads(json.dumps(arm.kwargs)) == dict(arm.kwargs)


@pytest.mark.parametrize("name", IDS)
def test_the_numbers_are_the_advisors_for_this_very_measurement(
    rules: CompiledRules, catalog: Catalog, name: str
) -> None:
    spec = Spec(workload="cnn", steps=20, rounds=5)
    (arm,) = plan.plan_arms(rules, [name], spec, control=None, implementation=None)
    advice = advise(
        rules,
        {"optimizer": name, "model": "cnn", "params": 1_000_000, "precision": "fp32", "steps": spec.total_steps},
    )
    made = next(i for i in catalog.optimizer(name).implementations if i.path == arm.path)
    for number in advice.hyperparameters:
        if catalog.optimizer(name).hyperparameter(number.name):
            assert arm.kwargs[made.arguments.get(number.name, number.name)] == number.value
    assert [phase.kwargs for phase in arm.phases] == [phase.kwargs for phase in advice.schedule.phases]


def test_steps_alone_have_no_schedule(rules: CompiledRules) -> None:
    (arm,) = planned(rules, "adamw", optimizer_only=True)
    assert (arm.phases, arm.milestones) == ((), ())


@pytest.mark.parametrize(
    ("wanted", "label", "path", "variant"),
    [
        (None, "adamw", "torch.optim.AdamW", "fused"),
        ("foreach", "adamw:foreach", "torch.optim.AdamW", "foreach"),
        ("for-loop", "adamw:for-loop", "torch.optim.AdamW", "for-loop"),
        ("compiled", "adamw:compiled", "torch.optim.AdamW", "compiled"),
        ("torch", "adamw:fused", "torch.optim.AdamW", "fused"),
        ("torch-optimi", "adamw:foreach", "optimi.AdamW", "foreach"),
        ("optimi", "adamw:foreach", "optimi.AdamW", "foreach"),
    ],
)
def test_an_implementation_is_chosen(
    rules: CompiledRules, wanted: str | None, label: str, path: str, variant: str
) -> None:  # fmt: skip
    (arm,) = planned(rules, "adamw", implementation=wanted)
    assert (arm.label, arm.path, arm.variant, arm.unsupported) == (label, path, variant, None)


def test_all_implementations_and_the_fastest_is_the_control(rules: CompiledRules) -> None:
    arms = planned(rules, "adamw", control="adamw", implementation="all")
    assert roles(arms) == [
        ("adamw:fused", "control"), ("adamw:torch-foreach", "candidate"), ("adamw:torch-for-loop", "candidate"),
        ("adamw:optimi-foreach", "candidate"), ("adamw:optimi-for-loop", "candidate"),
    ]  # fmt: skip


def test_an_implementation_that_a_card_lacks_is_refused_with_what_it_has(rules: CompiledRules) -> None:
    with pytest.raises(InputError, match="adamw has none; accepted: all, compiled, for-loop, foreach, fused"):
        planned(rules, "adamw", implementation="rust")


def test_triton_is_for_cuda(rules: CompiledRules) -> None:
    here = {arm.variant for arm in planned(rules, "adamw", implementation="all")}
    there = {arm.variant for arm in planned(rules, "adamw", implementation="all", device="cuda")}
    assert there - here == {"triton"}


@pytest.mark.parametrize("name", IDS)
def test_paged_state_is_unsupported_on_a_cpu_and_only_there(rules: CompiledRules, catalog: Catalog, name: str) -> None:
    paged = catalog.optimizer(name).paged
    (arm,) = planned(rules, name)
    assert ("paged state needs CUDA" in (arm.unsupported or "")) is paged
    (arm,) = planned(rules, name, device="cuda")
    assert "paged" not in (arm.unsupported or "")


@pytest.mark.parametrize("name", IDS)
def test_what_is_not_installed_is_unsupported_with_the_pip_line(
    rules: CompiledRules, catalog: Catalog, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "find_spec", lambda module: None)
    card = catalog.optimizer(name)
    for made in card.implementations:
        (arm,) = planned(rules, name, implementation=made.id)
        assert arm.unsupported
        if card.paged:
            assert "paged" in arm.unsupported
        elif "cpu" not in made.devices:
            assert arm.unsupported == f"{made.path} runs on {', '.join(made.devices)}, not on cpu"
        elif made.package:
            assert str(arm.unsupported).startswith(f"{made.path} is not installed; pip install {made.package}")
        else:
            assert "build it from source" in arm.unsupported


def test_the_next_implementation_is_taken_where_the_first_is_not_installed(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_torch(module: str) -> ModuleSpec | None:
        return None if module == "torch" else find_spec(module)

    monkeypatch.setattr(plan, "find_spec", without_torch)
    (arm,) = planned(rules, "adamw")
    assert (arm.path, arm.unsupported) == ("optimi.AdamW", None)


def recommended(*options: str) -> dict[str, Any]:
    said = optadvise("recommend", "--json", *options)
    assert said.code == 0, said.err
    data: dict[str, Any] = json.loads(said.out)
    return data


@pytest.mark.parametrize("name", [None, *IDS])
def test_a_recommendation_runs_as_it_is(rules: CompiledRules, name: str | None) -> None:
    data = recommended(
        "--model", "transformer", "--params", "1.5B", "--vram", "24GB", *(("--optimizer", name) if name else ())
    )
    arm, against = plan_recommendation(rules, data, SPEC, control="adamw")
    assert (arm.optimizer, arm.path, arm.role) == (data["optimizer"]["id"], data["optimizer"]["import"], "candidate")
    made = next(i for i in rules.catalog.optimizer(arm.optimizer).implementations if i.path == arm.path)
    assert arm.kwargs == {**data["optimizer"]["kwargs"], **made.cpu_kwargs}
    (onto_gpu, *_) = plan_recommendation(rules, data, replace(SPEC, device="cuda"), control=None)
    assert onto_gpu.kwargs == data["optimizer"]["kwargs"]
    phases = [{"shape": phase.shape, "import": phase.path, "kwargs": phase.kwargs} for phase in arm.phases]
    assert phases == data["scheduler"]["phases"]
    if len(arm.phases) > 1:
        assert list(arm.milestones) == data["scheduler"]["kwargs"]["milestones"]
    clip = {h["name"]: h["value"] for h in data["hyperparameters"]}.get("max_grad_norm")
    assert arm.max_grad_norm == clip
    assert (arm.companion is None) is (data.get("companion") is None)
    if arm.companion is not None:
        assert arm.companion.kwargs == data["companion"]["kwargs"]
        assert arm.companion.path == data["companion"]["import"]
    assert (against.optimizer, against.role) == ("adamw", "control")


def test_numbers_changed_by_hand_are_kept(rules: CompiledRules) -> None:
    data = recommended("--model", "transformer", "--optimizer", "lion")
    data["optimizer"]["kwargs"]["lr"] = 0.123
    (arm,) = plan_recommendation(rules, data, SPEC, control=None)
    assert arm.kwargs["lr"] == 0.123


@pytest.mark.parametrize("key", ["kind", "schema_version", "optimizer", "scheduler", "hyperparameters"])
@pytest.mark.parametrize("value", [None, [], "nonsense", 3])
def test_what_is_no_recommendation_is_refused(rules: CompiledRules, key: str, value: object) -> None:
    data = recommended("--model", "transformer")
    for changed in ({**data, key: value}, {k: v for k, v in data.items() if k != key}):
        if key == "hyperparameters" and changed.get(key) == []:
            continue  # a recommendation without numbers is one
        with pytest.raises(InputError):
            plan_recommendation(rules, changed, SPEC, control=None)


@pytest.mark.parametrize("value", [None, 3, "lr", ["lr"], [1]])
def test_arguments_that_are_none_are_refused(rules: CompiledRules, value: object) -> None:
    data = recommended("--model", "transformer")
    data["optimizer"]["kwargs"] = value
    with pytest.raises(InputError, match="not a recommendation"):
        plan_recommendation(rules, data, SPEC, control=None)
