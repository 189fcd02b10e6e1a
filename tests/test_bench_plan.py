"""Planned arms, from optimizer names and from recommendations."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import pytest
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.inputs import parse_inputs
from optadvise.advice.recommend import advise
from optadvise.benchmark import plan, variants
from optadvise.benchmark.metrics import METRICS
from optadvise.benchmark.options import BenchOptions
from optadvise.benchmark.recommendation import plan_recommendation
from optadvise.benchmark.request import prepare_request
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, OptadviseWarning
from optadvise.evidence.versions import find_version
from optadvise.rulebase.catalog import Catalog, load
from tests.cli import optadvise

IDS = load().optimizer_ids
SPEC = Spec()


def plan_arms(
    rules: CompiledRules, *names: str, control: str | None = None, implementation: str | None = None, **spec: Any
) -> list[Arm]:
    return plan.plan_arms(rules, names, Spec(**spec), control=control, implementation=implementation)


def list_roles(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    return [(arm.label, arm.role) for arm in arms]


def test_control_is_added_even_if_it_equals_the_candidate(rules: CompiledRules) -> None:
    assert list_roles(plan_arms(rules, "lion", control="adamw")) == [
        ("lion", "candidate"),
        ("adamw (control)", "control"),
    ]
    assert list_roles(plan_arms(rules, "adamw", control="adamw")) == [
        ("adamw", "candidate"),
        ("adamw (control)", "control"),
    ]
    assert list_roles(plan_arms(rules, "lion", control=None)) == [("lion", "candidate")]


def test_control_among_several_candidates_runs_once(rules: CompiledRules) -> None:
    assert list_roles(plan_arms(rules, "lion", "adamw", control="adamw")) == [
        ("lion", "candidate"),
        ("adamw", "control"),
    ]


def test_repeated_name_runs_once(rules: CompiledRules) -> None:
    assert list_roles(plan_arms(rules, "lion", "lion")) == [("lion", "candidate")]


def test_k_is_the_same_in_bench_and_recommend(rules: CompiledRules) -> None:
    for text, number in (("1K", 1024), ("8k", 8192), ("100K", 100_000)):
        spec = prepare_request(rules, ["lion"], BenchOptions(batch_size=text, seq_len="1K", device="cpu")).spec
        assert (spec.batch_size, spec.seq_len) == (number, 1024)
        assert parse_inputs(rules.catalog, {"batch_size": text})["batch_size"] == number
    assert prepare_request(rules, ["lion"], BenchOptions(params="1K", device="cpu")).spec.params == 1000


def test_the_help_of_require_lists_the_metrics() -> None:
    _, option = get_args(get_type_hints(BenchOptions, include_extras=True)["require"])
    assert set(METRICS) <= {*re.findall(r"\w+", option.help.partition("Metrics:")[2])}


@pytest.mark.parametrize(
    ("model", "spec", "count"),
    [
        ("transformer", {}, 0), ("cnn", {}, 1), ("cnn", {"workload": "cnn"}, 0), ("gan", {}, 1),
        ("gan", {"workload": "a:b", "user": True}, 0), ("gan", {"optimizer_only": True}, 0), ("unknown", {}, 0),
    ],
)  # fmt: skip
def test_another_network_than_the_recommended_is_reported(
    rules: CompiledRules, model: str, spec: dict[str, Any], count: int
) -> None:
    data = recommend_json("--optimizer", "adamw")
    data["situation"]["model"] = model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan_recommendation(rules, data, Spec(**spec), control=None)
    assert [warning.category for warning in caught] == [OptadviseWarning] * count


@pytest.mark.parametrize("name", IDS)
def test_every_implementation_has_a_unique_label_and_its_arguments(
    rules: CompiledRules, catalog: Catalog, name: str
) -> None:
    card = catalog.optimizer(name)
    arms = plan_arms(rules, name, control="adamw", implementation="all")
    assert len({arm.label for arm in arms}) == len(arms)
    assert sum(arm.role == "control" for arm in arms) == 1
    for arm in (arm for arm in arms if arm.optimizer == name):
        implementation = next(i for i in card.implementations if i.path == arm.path)
        hyperparameters = {implementation.arguments.get(h.name, h.name) for h in card.hyperparameters}
        variant_kwargs = implementation.variants[arm.variant] if arm.variant else {}
        fixed = {**implementation.kwargs, **variant_kwargs, **implementation.cpu_kwargs}
        assert set(arm.kwargs) == hyperparameters | set(fixed) | set(implementation.step_arguments)
        assert {arm.kwargs[key] for key in implementation.step_arguments} <= {SPEC.total_steps}
        assert {key: arm.kwargs[key] for key in fixed} == fixed
        assert (arm.package, arm.tensors) == (implementation.package, implementation.tensors)
        decays = card.hyperparameter("weight_decay") is not None
        decay_argument = implementation.arguments.get("weight_decay", "weight_decay") if decays else None
        assert arm.decay_argument == decay_argument
        assert json.loads(json.dumps(arm.kwargs)) == dict(arm.kwargs)


@pytest.mark.parametrize("name", IDS)
def test_hyperparameters_are_recommended_for_the_workload(rules: CompiledRules, catalog: Catalog, name: str) -> None:
    spec = Spec(workload="cnn", steps=20, rounds=5)
    (arm,) = plan.plan_arms(rules, [name], spec, control=None, implementation=None)
    advice = advise(
        rules,
        {"optimizer": name, "model": "cnn", "params": 1_000_000, "precision": "fp32", "steps": spec.total_steps},
    )
    implementation = next(i for i in catalog.optimizer(name).implementations if i.path == arm.path)
    for number in advice.hyperparameters:
        if catalog.optimizer(name).hyperparameter(number.name):
            assert arm.kwargs[implementation.arguments.get(number.name, number.name)] == number.value
    assert [phase.kwargs for phase in arm.phases] == [phase.kwargs for phase in advice.schedule.phases]


def test_optimizer_only_has_no_schedule(rules: CompiledRules) -> None:
    (arm,) = plan_arms(rules, "adamw", optimizer_only=True)
    assert (arm.phases, arm.milestones) == ((), ())


@pytest.mark.parametrize(
    ("implementation", "label", "path", "variant"),
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
def test_implementation_option(
    rules: CompiledRules, implementation: str | None, label: str, path: str, variant: str
) -> None:  # fmt: skip
    (arm,) = plan_arms(rules, "adamw", implementation=implementation)
    assert (arm.label, arm.path, arm.variant, arm.unsupported) == (label, path, variant, None)


def test_compiled_step_excludes_loss_scaling(rules: CompiledRules) -> None:
    """GradScaler calls `step` of the optimizer instead of the compiled function."""
    with pytest.raises(InputError) as caught:
        plan_arms(rules, "adamw", implementation="compiled", dtype="amp-fp16", device="cuda:0")
    assert (caught.value.code, caught.value.option) == (ErrorCode.OPTION_CONFLICT, "--implementation")
    for spec in ({"dtype": "amp-bf16", "device": "cuda"}, {"dtype": "amp-fp16"},
                 {"dtype": "amp-fp16", "device": "cuda", "optimizer_only": True}):  # fmt: skip
        assert plan_arms(rules, "adamw", implementation="compiled", **spec)[0].variant == "compiled"


def test_all_implementations_with_the_fastest_as_control(rules: CompiledRules) -> None:
    arms = plan_arms(rules, "adamw", control="adamw", implementation="all")
    assert list_roles(arms) == [
        ("adamw:fused", "control"), ("adamw:torch-foreach", "candidate"), ("adamw:torch-for-loop", "candidate"),
        ("adamw:optimi-foreach", "candidate"), ("adamw:optimi-for-loop", "candidate"),
    ]  # fmt: skip


def test_unknown_implementation(rules: CompiledRules) -> None:
    with pytest.raises(InputError) as caught:
        plan_arms(rules, "adamw", implementation="rust")
    assert caught.value.code is ErrorCode.UNKNOWN_CHOICE
    assert (caught.value.option, caught.value.value) == ("--implementation", "rust")
    for accepted in ("all", "compiled", "for-loop", "foreach", "fused"):
        assert accepted in str(caught.value)


@pytest.fixture
def _triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton count as installed."""
    is_installed = variants.is_installed
    monkeypatch.setattr(variants, "is_installed", lambda package: package == "triton" or is_installed(package))


def set_version(monkeypatch: pytest.MonkeyPatch, package: str, version: str | None) -> None:
    """Change the installed version of a package."""
    monkeypatch.setattr(variants, "find_version", lambda name: version if name == package else find_version(name))


@pytest.mark.usefixtures("_triton")
def test_triton_requires_cuda(rules: CompiledRules) -> None:
    on_cpu = {arm.variant for arm in plan_arms(rules, "adamw", implementation="all")}
    on_cuda = {arm.variant for arm in plan_arms(rules, "adamw", implementation="all", device="cuda")}
    assert on_cuda - on_cpu == {"triton"}


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize(
    ("name", "cpu", "cuda", "argument"),
    [
        ("adamw", "fused", "fused", {"fused": True}),
        ("lion", "for-loop", "triton", {"use_triton": True}),
        ("stable-adamw", "foreach", "triton", {"triton": True}),
        ("ranger", "foreach", "triton", {"triton": True}),
    ],
)
def test_fastest_variant_of_each_device(
    rules: CompiledRules, name: str, cpu: str, cuda: str, argument: dict[str, bool]
) -> None:
    (on_cpu,) = plan_arms(rules, name)
    (on_cuda,) = plan_arms(rules, name, device="cuda:1")
    assert (on_cpu.variant, on_cuda.variant) == (cpu, cuda)
    assert argument.items() <= on_cuda.kwargs.items()


def test_triton_is_not_used_where_it_is_not_installed(rules: CompiledRules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Triton, lion-pytorch's module for it ends the process."""
    is_installed = variants.is_installed
    monkeypatch.setattr(variants, "is_installed", lambda package: package != "triton" and is_installed(package))
    (lion,) = plan_arms(rules, "lion", device="cuda")
    assert (lion.variant, lion.kwargs["use_triton"]) == ("for-loop", False)


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize(("version", "variant"), [("0.2.1", "foreach"), ("0.3.0", "triton"), (None, "foreach")])
def test_triton_requires_a_version_of_optimi(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch, version: str | None, variant: str
) -> None:
    set_version(monkeypatch, "torch-optimi", version)
    assert plan_arms(rules, "adan", device="cuda")[0].variant == variant


@pytest.mark.usefixtures("_triton")
def test_triton_does_not_support_sharded_tensors(rules: CompiledRules, catalog: Catalog) -> None:
    for name in IDS:
        for arm in plan_arms(rules, name, implementation="all", device="cuda", nproc=2, shard="fsdp"):
            assert arm.variant != "triton"
    (optimi,) = plan_arms(rules, "sgd", implementation="optimi", device="cuda", nproc=2, shard="fsdp")
    assert optimi.variant == "foreach"


@pytest.mark.parametrize(
    ("version", "device", "variant"),
    [
        ("2.6.0", "cuda", "foreach"), ("2.11.0+cu130", "cuda", "foreach"), ("2.12.0+cu130", "cuda", "fused"),
        ("2.6.0", "cpu", "fused"), (None, "cuda", "foreach"), (None, "cpu", "fused"),
    ],
)  # fmt: skip
def test_fused_adagrad_requires_a_version_of_torch_on_cuda(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch, version: str | None, device: str, variant: str
) -> None:
    set_version(monkeypatch, "torch", version)
    (arm,) = plan_arms(rules, "adagrad", device=device)
    assert (arm.path, arm.variant, arm.kwargs.get("fused")) == (
        "torch.optim.Adagrad", variant, True if variant == "fused" else None,
    )  # fmt: skip


def test_variant_that_cannot_be_used_is_rejected_with_its_requirement(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_version(monkeypatch, "torch", "2.9.1+cu128")
    with pytest.raises(InputError) as caught:
        plan_arms(rules, "adagrad", implementation="fused", device="cuda")
    assert caught.value.code is ErrorCode.UNKNOWN_CHOICE
    assert "torch>=2.12" in str(caught.value)
    assert "2.9.1" in str(caught.value)


def test_old_package_is_unsupported(rules: CompiledRules, monkeypatch: pytest.MonkeyPatch) -> None:
    set_version(monkeypatch, "torch", "2.8.0")
    (muon,) = plan_arms(rules, "muon")
    assert muon.unsupported_code is ErrorCode.MISSING_PACKAGE
    assert "torch>=2.9" in (muon.unsupported or "")


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_companion_uses_the_same_variant_as_the_control(rules: CompiledRules, name: str) -> None:
    for device in ("cpu", "cuda"):
        arm, control = plan_arms(rules, name, control="adamw", device=device)
        assert arm.companion is not None
        assert (arm.companion.path, control.variant) == (control.path, "fused")
        assert arm.companion.kwargs["fused"] is True


@pytest.mark.parametrize("name", IDS)
def test_paged_state_requires_cuda(rules: CompiledRules, catalog: Catalog, name: str) -> None:
    paged = catalog.optimizer(name).paged
    (arm,) = plan_arms(rules, name)
    assert ("paged" in (arm.unsupported or "")) is paged
    if paged:
        assert arm.unsupported_code is ErrorCode.UNSUPPORTED
    (arm,) = plan_arms(rules, name, device="cuda")
    assert "paged" not in (arm.unsupported or "")


@pytest.mark.parametrize("name", IDS)
def test_missing_package_is_unsupported(
    rules: CompiledRules, catalog: Catalog, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "is_installed", lambda package: False)
    card = catalog.optimizer(name)
    for implementation in card.implementations:
        (arm,) = plan_arms(rules, name, implementation=implementation.id)
        assert arm.unsupported
        if card.paged or "cpu" not in implementation.devices or implementation.tensors == "table":
            assert arm.unsupported_code is ErrorCode.UNSUPPORTED
            assert ("paged" if card.paged else implementation.path) in arm.unsupported
        else:
            assert arm.unsupported_code is ErrorCode.MISSING_PACKAGE
            assert arm.unsupported.startswith(f"{implementation.path} ")
            assert (f"pip install {implementation.package}" in arm.unsupported) is bool(implementation.package)


def test_first_installed_implementation_is_used(rules: CompiledRules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "is_installed", lambda package: package != "torch")
    (arm,) = plan_arms(rules, "adamw")
    assert (arm.path, arm.unsupported) == ("optimi.AdamW", None)


def recommend_json(*options: str) -> dict[str, Any]:
    command = optadvise("recommend", "--json", *options)
    assert command.code == 0, command.err
    data: dict[str, Any] = json.loads(command.out)
    return data


@pytest.mark.parametrize("name", [None, *IDS])
def test_recommendation_runs_unchanged(rules: CompiledRules, name: str | None) -> None:
    data = recommend_json(
        "--model", "transformer", "--params", "1.5B", "--vram", "24GB", *(("--optimizer", name) if name else ())
    )
    arm, control = plan_recommendation(rules, data, SPEC, control="adamw")
    assert (arm.optimizer, arm.path, arm.role) == (data["optimizer"]["id"], data["optimizer"]["import"], "candidate")
    implementation = next(i for i in rules.catalog.optimizer(arm.optimizer).implementations if i.path == arm.path)
    fused = {"fused": True} if data["run"]["variant"] == "fused" else {}
    assert arm.variant == data["run"]["variant"]
    assert arm.kwargs == {**data["optimizer"]["kwargs"], **implementation.cpu_kwargs, **fused}
    (cuda_arm, *_) = plan_recommendation(rules, data, replace(SPEC, device="cuda"), control=None)
    assert cuda_arm.kwargs == {**data["optimizer"]["kwargs"], **fused}
    phases = [{"shape": phase.shape, "import": phase.path, "kwargs": phase.kwargs} for phase in arm.phases]
    assert phases == data["scheduler"]["phases"]
    if len(arm.phases) > 1:
        assert list(arm.milestones) == data["scheduler"]["kwargs"]["milestones"]
    clip = {h["name"]: h["value"] for h in data["hyperparameters"]}.get("max_grad_norm")
    assert arm.max_grad_norm == clip
    assert (arm.companion is None) is (data.get("companion") is None)
    if arm.companion is not None:
        assert arm.companion.kwargs == {**data["companion"]["kwargs"], "fused": True}
        assert arm.companion.path == data["companion"]["import"]
    assert (control.optimizer, control.role) == ("adamw", "control")


def test_recommended_optimizer_has_the_variant_of_an_equal_control(rules: CompiledRules) -> None:
    data = recommend_json("--model", "transformer", "--optimizer", "adamw")
    arm, control = plan_recommendation(rules, data, SPEC, control="adamw")
    assert (arm.path, arm.variant) == (control.path, control.variant) == ("torch.optim.AdamW", "fused")


@pytest.mark.parametrize(
    ("optimizer", "variant", "spec"),
    [("adamw", "rust", {}), ("adamw", None, {}), ("sgd", "fused", {"nproc": 2, "shard": "fsdp"})],
)
def test_recommended_variant_that_cannot_be_used(
    rules: CompiledRules, optimizer: str, variant: str | None, spec: dict[str, Any]
) -> None:
    data = recommend_json("--model", "transformer", "--optimizer", optimizer)
    data["run"]["variant"] = variant
    (arm,) = plan_recommendation(rules, data, Spec(**spec), control=None)
    assert (arm.variant, arm.kwargs.get("fused", False)) == (None, False)


def test_edited_hyperparameters_are_used(rules: CompiledRules) -> None:
    data = recommend_json("--model", "transformer", "--optimizer", "lion")
    data["optimizer"]["kwargs"]["lr"] = 0.123
    (arm,) = plan_recommendation(rules, data, SPEC, control=None)
    assert arm.kwargs["lr"] == 0.123


@pytest.mark.parametrize("key", ["kind", "schema_version", "optimizer", "scheduler", "hyperparameters"])
@pytest.mark.parametrize("value", [None, [], "nonsense", 3])
def test_invalid_recommendation(rules: CompiledRules, key: str, value: object) -> None:
    data = recommend_json("--model", "transformer")
    for changed in ({**data, key: value}, {k: v for k, v in data.items() if k != key}):
        if key == "hyperparameters" and changed.get(key) == []:
            continue  # a recommendation without hyperparameters is valid
        with pytest.raises(InputError) as caught:
            plan_recommendation(rules, changed, SPEC, control=None)
        assert caught.value.code is ErrorCode.INVALID_RECOMMENDATION
        assert caught.value.option == "--from"


@pytest.mark.parametrize("value", [None, 3, "lr", ["lr"], [1]])
def test_invalid_arguments_in_a_recommendation(rules: CompiledRules, value: object) -> None:
    data = recommend_json("--model", "transformer")
    data["optimizer"]["kwargs"] = value
    with pytest.raises(InputError) as caught:
        plan_recommendation(rules, data, SPEC, control=None)
    assert caught.value.code is ErrorCode.INVALID_RECOMMENDATION
