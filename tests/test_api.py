"""Library functions: they match the commands, and build what the generated code builds."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

import optadvise
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.schedules import compute_lr
from optadvise.rulebase.catalog import load
from tests import frameworks, option_types
from tests.cli import optadvise as command
from tests.conftest import ROOT

CATALOG = load()
RUNS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"model": "transformer", "vram": "24GB", "params": "1B"}, "--model transformer --vram 24GB --params 1B"),
    ({"model": "cnn", "batch_size": 16384, "steps": 1e4}, "--model cnn --batch-size 16384 --steps 10000"),
    ({"vram": 24 * 2**30, "params": 7e9, "task": "finetune"}, "--vram 24GiB --params 7B --task finetune"),
    ({"arch": "llama-3-8b", "gpu": "h100", "gpus": 8, "shard": "zero3"},
     "--arch llama-3-8b --gpu h100 --gpus 8 --shard zero3"),
    ({"sparse_gradients": True, "clipping": False}, "--sparse-gradients"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "line"), RUNS, ids=[line for _, line in RUNS])
def test_functions_return_what_the_commands_print(run: dict[str, Any], line: str) -> None:
    assert optadvise.recommend(**run).data() == json.loads(command("recommend", *line.split(), "--json").out)
    if "params" in run or "arch" in run:
        assert optadvise.estimate(**run).data() == json.loads(command("estimate", *line.split(), "--json").out)


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ({"model": "transfomer"}, "--model transfomer"),
        ({"vram": "lots"}, "--vram lots"),
        ({"params": -1}, "--params=-1"),
        ({"gpus": 0}, "--gpus 0"),
        ({"optimizer": "adamx"}, "--optimizer adamx"),
        ({"method": "lora", "task": "pretrain"}, "--method lora --task pretrain"),
        ({"rules": ["no/such/folder"]}, "--rules no/such/folder"),
    ],
)
def test_functions_raise_what_the_commands_print(run: Any, line: str) -> None:
    result = command("recommend", *line.split())
    with pytest.raises((InputError, RuleFileError)) as caught:
        optadvise.recommend(**run)
    assert result.err == f"optadvise: {caught.value}\n"
    assert (result.code, result.error) == (caught.value.exit_code, caught.value.code)


def test_an_unknown_option_is_rejected_with_a_suggestion() -> None:
    calls: list[tuple[Callable[..., object], str, str]] = [
        (optadvise.recommend, "modle", "'model'"),
        (optadvise.estimate, "modle", "'model'"),
        (optadvise.bench, "round", "'rounds'"),
        (optadvise.bench, "qqqq", ""),
    ]
    for function, option, suggestion in calls:
        with pytest.raises(InputError) as caught:
            function(**{option: 2})
        assert (caught.value.code, caught.value.value) == (ErrorCode.UNKNOWN_OPTION, option)
        assert suggestion in str(caught.value)
        assert str(caught.value)[-1] in "?'"  # without a suggestion, the message ends with the problem


def test_an_estimate_requires_a_network_size() -> None:
    with pytest.raises(InputError) as caught:
        optadvise.estimate(model="cnn")
    assert caught.value.code is ErrorCode.NETWORK_UNKNOWN


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda: optadvise.bench("adamw", seed="x"), "--seed"),  # type: ignore[arg-type]
        (lambda: optadvise.bench("adamw", timeout="x"), "--timeout"),  # type: ignore[arg-type]
        (lambda: optadvise.bench("adamw", compile=3), "--compile"),  # type: ignore[arg-type]
        (lambda: optadvise.bench("adamw", require="a <= 1"), "--require"),
        (lambda: optadvise.bench("adamw", control=None), "--control"),  # type: ignore[arg-type]
        (lambda: optadvise.bench("adamw", rules=3), "--rules"),  # type: ignore[arg-type]
        (lambda: optadvise.bench(3), ""),  # type: ignore[arg-type]
        (lambda: optadvise.recommend(rules=[3]), "--rules"),  # type: ignore[list-item]
        (lambda: optadvise.estimate(hf_config=3), "--hf-config"),  # type: ignore[arg-type]
        (lambda: optadvise.recommend(offload="no"), "--offload"),  # type: ignore[arg-type]
    ],
)
def test_an_option_of_the_wrong_type_is_an_input_error(call: Callable[[], object], option: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert (caught.value.code, caught.value.option) == (ErrorCode.INVALID_VALUE, option)


def test_options_equal_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    from optadvise import Measurement
    from optadvise.benchmark.options import BenchOptions
    from optadvise.cli.bench import BenchOutputs, bench

    assert option_types.FILE.read_text(encoding="utf-8") == option_types.generate(), "python -m tests.option_types"
    outputs = {"names", "from_", "rules", "allow_imports", "merge", *BenchOutputs.__struct_fields__}
    options = {*inspect.signature(bench).parameters} - outputs
    assert options == {*BenchOptions.__struct_fields__} == {*Measurement.__annotations__}


class Tiny(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 16, sparse=sparse)
        self.hidden = torch.nn.Linear(16, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.head = torch.nn.Linear(16, 4)
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.hidden(self.embed(x)).relu()).mean(1))
        return out


def list_groups(model: torch.nn.Module, optimizer: Any) -> list[list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [sorted(names[id(p)] for p in group["params"]) for group in optimizer.param_groups]


@pytest.mark.filterwarnings("ignore")  # about paged state on a CPU, and from torch about schedules
@pytest.mark.parametrize("name", CATALOG.optimizer_ids)
def test_build_equals_generated_code(name: str, tmp_path: Path) -> None:
    advice = optadvise.recommend(model="transformer", optimizer=name, steps=20)
    if not frameworks.is_importable(advice.implementation):
        pytest.skip(f"{advice.implementation.path} cannot be imported here")
    model = Tiny(sparse=advice.implementation.gradients == "sparse")
    built, schedules = advice.build(model)
    written, _ = frameworks.load_program(advice.code(), tmp_path).configure(model)
    pair = advice.companion is not None
    for ours, theirs in zip(built if pair else [built], written if pair else [written], strict=True):
        assert type(ours) is type(theirs)
        assert list_groups(model, ours) == list_groups(model, theirs)
        for one, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            keys = {*one, *other} - {"params"} - {"fused"}
            assert {key: one.get(key) for key in keys} == {key: other.get(key) for key in keys}
    optimizer = built[0] if pair else built
    peak = float(str(advice.kwargs["lr"]))
    for step in range(20):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(compute_lr(advice.schedule, peak, step), rel=1e-6)
        model(torch.randint(20, (8, 4))).sum().backward()
        for one in built if pair else [built]:
            one.step()
            one.zero_grad()
        for one in schedules if pair else [schedules]:
            one.step()
    assert model.frozen.tolist() == [1, 1, 1]


def test_gradient_release_cannot_be_built() -> None:
    advice = optadvise.recommend(model="transformer", gradient_release=True)
    with pytest.raises(InputError) as caught:
        advice.build(Tiny())
    assert (caught.value.code, caught.value.option) == (ErrorCode.OPTION_CONFLICT, "--gradient-release")
    assert "register_post_accumulate_grad_hook" in advice.code()


def test_recommend_does_not_import_torch_and_bench_is_a_function_and_a_package() -> None:
    code = """
import sys, optadvise
advice = optadvise.recommend(model="transformer", params="1B", vram="24GB")
optadvise.estimate(params="1B"), advice.code("hf"), advice.data()
assert "torch" not in sys.modules and "typer" not in sys.modules
import optadvise.benchmark.spec
assert callable(optadvise.bench) and optadvise.benchmark.spec.Spec
assert optadvise.__version__
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bench_measures_a_recommendation() -> None:
    advice = optadvise.recommend(model="transformer", optimizer="lion", steps=1000)
    quick: dict[str, Any] = {"rounds": 2, "steps": 2, "batch_size": 2, "seq_len": 16, "threads": 1}
    result = optadvise.bench(advice, control="none", device="cpu", require=["loss_last <= 99"], **quick)
    arm = result["arms"][0]
    assert (arm["optimizer"], arm["status"], result["verdict"]) == ("lion", "ok", "pass")
    with pytest.raises(InputError) as caught:
        optadvise.bench("adamw", advice)
    assert caught.value.code is ErrorCode.OPTION_CONFLICT


@pytest.mark.parametrize("value", [0, False, np.bool_(False)])
def test_false_values_turn_a_flag_off(value: Any) -> None:
    assert not optadvise.recommend(offload=value, sparse_gradients=value).situation.offload


@pytest.mark.parametrize(
    "run",
    [{"offload": "no"}, {"params": float("nan")}, {"params": float("inf")}, {"gpus": True}, {"gpus": 1.5},
     {"model": 3}, {"vram": -1}, {"steps": "many"}],
    ids=str,
)  # fmt: skip
def test_an_invalid_value_is_an_input_error(run: Any) -> None:
    with pytest.raises(InputError):
        optadvise.recommend(**run)


def test_numpy_numbers_and_paths_are_accepted() -> None:
    advice = optadvise.recommend(model="transformer", params=np.int64(7 * 10**9), gpus=np.float64(2), vram=None,
                                 rules=ROOT / "examples" / "team-rules", method="lora", task="finetune",
                                 lora_targets=["q", "v"])  # fmt: skip
    assert (advice.situation.params, advice.situation.gpus, advice.situation.lora_targets) == (7 * 10**9, 2, "q,v")
    assert len(advice.layers) == 2


@pytest.mark.parametrize("rules", [(), [ROOT / "examples" / "team-rules"]])
def test_results_can_be_pickled_copied_and_replaced(rules: Any) -> None:
    advice = optadvise.recommend(arch="llama-3-8b", vram="24GB", rules=rules)
    answer = optadvise.estimate(params="7B", vram="24GB", rules=rules)
    for one in (pickle.loads(pickle.dumps(advice)), copy.deepcopy(advice), replace(advice)):
        assert one == advice
        assert (one.data(), one.code()) == (advice.data(), advice.code())
    assert pickle.loads(pickle.dumps(answer)).data() == answer.data()


def test_a_model_without_trainable_parameters_is_rejected() -> None:
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(InputError) as caught:
        optadvise.recommend().build(frozen)
    assert caught.value.code is ErrorCode.INVALID_NETWORK


def test_dir_lists_the_public_names() -> None:
    assert {"recommend", "estimate", "bench", "Advice"} <= {*dir(optadvise)}
