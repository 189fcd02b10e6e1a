"""Generated programs train in their framework as recommended; `docs/frameworks.md` has the results.

`python -m tests.frameworks` regenerates that page.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.codegen import FRAMEWORKS
from optadvise.codegen.context import list_header
from optadvise.codegen.plan import make_plan
from optadvise.codegen.write import write_code
from optadvise.core.advice_records import Recommendation
from optadvise.core.records import FactValues
from optadvise.core.schedules import compute_lr
from optadvise.rulebase.catalog import load
from tests import frameworks
from tests.cli import optadvise
from tests.conftest import rotated
from tests.frameworks import PYTHON, is_importable, run, write_program

CATALOG = load()
# Ignore deprecations of frameworks and their warnings about CPUs.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

OTHERS = [framework for framework in PYTHON if framework != "python"]  # a part of the cases per push
RUNS: list[dict[str, Any]] = [
    {"precision": "fp32"}, {"precision": "bf16"}, {"precision": "amp-fp16"},
    {"batch_size": 64, "micro_batch": 8, "steps": 2}, {"checkpointing": "full"},
    {"task": "finetune", "method": "lora", "checkpointing": "full", "steps": 8},
    {"task": "finetune", "method": "lora", "steps": 8}, {"task": "finetune", "method": "qlora", "steps": 8},
    {"task": "finetune", "method": "lora", "optimizer": "adamw8bit", "batch_size": 32, "micro_batch": 8, "steps": 2},
    {"optimizer": "muon", "batch_size": 64, "micro_batch": 8, "steps": 2},
]  # fmt: skip


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def require(framework: str) -> None:
    package = CATALOG.frameworks[framework].package
    if find_spec(str(package)) is None:
        pytest.skip(f"{package} is not installed: pip install {package}")


def check_training(
    rules: CompiledRules, framework: str, answers: dict[str, Any], folder: Path
) -> tuple[Recommendation, bool]:
    """Train, and check the loss, the learning rate of each step and that a resumed run equals an uninterrupted one.

    Returns:
        The recommendation that the framework supports, and whether it can resume a run.
    """
    require(framework)
    advice, text = write_program(rules, framework, answers)
    if not is_importable(advice.implementation):
        implementation = advice.implementation
        pytest.skip(f"{implementation.path} cannot be imported: pip install {implementation.package}")
    if framework in ("accelerate", "lightning"):  # random numbers of a resumed run differ
        text = text.replace("lora_dropout=0.05", "lora_dropout=0.0")
    result = run(framework, text, folder)
    assert result.loss_after < result.loss_before
    steps = advice.situation.steps
    peaks = [float(str(advice.kwargs["lr"]))]
    if advice.companion is not None:
        peaks.append(float(str(advice.companion.kwargs["lr"])))
    expected = [[compute_lr(advice.schedule, peak, step) for step in range(steps)] for peak in peaks]
    # With gradient release there is one optimizer for each of 6 weights; the example has no embedding tables.
    has_one = advice.implementation.tensors == "table"
    assert len(result.learning_rates) in (1 if has_one else len(peaks), 6)
    for learning_rates in result.learning_rates:
        assert any(learning_rates == pytest.approx(each, rel=1e-6) for each in expected)
    if result.resumed_weights is not None:
        assert all(torch.equal(a, b) for a, b in zip(result.weights, result.resumed_weights, strict=True))
    return advice, result.resumed_weights is not None


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        *rotated(12, [("python", name) for name in CATALOG.optimizer_ids]),
        *itertools.chain.from_iterable(
            rotated(1, [(framework, name) for name in CATALOG.optimizer_ids]) for framework in OTHERS
        ),
    ],
)
def test_every_optimizer_trains_in_every_framework(
    rules: CompiledRules, framework: str, name: str, tmp_path: Path
) -> None:
    published = frameworks.page_cells()[name, framework]
    advice, can_resume = check_training(rules, framework, {"model": "transformer", "optimizer": name}, tmp_path)
    runs = frameworks.RUNS if can_resume else f"{frameworks.RUNS}, not continued"
    assert published == (runs if advice.optimizer.id == name else f"no; {advice.optimizer.id}")


@pytest.mark.parametrize("framework", rotated(1, PYTHON))
def test_printed_program_runs(framework: str, tmp_path: Path) -> None:
    require(framework)
    file = tmp_path / "train_setup.py"
    line = f"recommend --model transformer --params 124M --vram 24GB --format {framework} -o {file}"
    assert optadvise(*line.split()).code == 0
    run_ = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert run_.returncode == 0, run_.stderr[-2000:]
    if framework in ("python", "accelerate"):
        assert (tmp_path / ("checkpoint.pt" if framework == "python" else "checkpoint")).exists()


@pytest.mark.parametrize(
    ("framework", "answers"),
    [
        *rotated(3, [("python", answers) for answers in RUNS]),
        *itertools.chain.from_iterable(rotated(1, [(framework, answers) for answers in RUNS]) for framework in OTHERS),
    ],
    ids=str,
)
def test_every_setting_trains_in_every_framework(
    rules: CompiledRules, framework: str, answers: dict[str, Any], tmp_path: Path
) -> None:
    assert check_training(rules, framework, {"model": "transformer", "optimizer": "adamw", **answers}, tmp_path)[1]


def test_sharded_trainer_trains_on_one_device(rules: CompiledRules, tmp_path: Path) -> None:
    """FSDP is enabled only by torchrun."""
    facts = {"optimizer": "adamw", "gpus": 2, "shard": "zero3", "checkpointing": "full", "loss": "chunked", "steps": 4}
    assert check_training(rules, "hf", {"model": "transformer", **facts}, tmp_path)[1]


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_gradient_release_steps_during_backward(rules: CompiledRules, tmp_path: Path, name: str) -> None:
    answers = {"model": "transformer", "optimizer": name, "gradient_release": True}
    assert check_training(rules, "python", answers, tmp_path)[1]
    advice, text = write_program(rules, "python", answers)
    module = frameworks.load_program(text, tmp_path)
    model, batches = module.make_example()
    module.configure(model)
    x, y = next(iter(batches))
    module.compute_loss(model, x, y).backward()
    assert all(p.grad is None for p in model.parameters())
    assert advice.optimizer.id == name


@pytest.mark.parametrize(
    "facts",
    [*({"schedule": name} for name in CATALOG.scheduler_ids), {"optimizer": "muon"},
     {"optimizer": "schedule-free-adamw"}, {"model": "cnn"}, {"model": "rl"}, {"method": "lora", "task": "finetune"},
     {"batch_size": 64, "micro_batch": 8}],
    ids=str,
)  # fmt: skip
def test_snippet_trains_with_the_recommended_learning_rates(rules: CompiledRules, facts: FactValues) -> None:
    """The snippet reads `model` and `total_steps`; it is no program."""
    advice, text = write_program(rules, "snippet", {"model": "transformer", "steps": 50, **facts})
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4))
    names: dict[str, Any] = {"model": model, "total_steps": 50}
    exec(compile(text, "snippet", "exec"), names)
    pairs = [*zip(names["optimizers"], names["schedulers"], strict=True)] if "optimizers" in names else []
    pairs = pairs or [(names["optimizer"], names["scheduler"])]
    assert {p for optimizer, _ in pairs for group in optimizer.param_groups for p in group["params"]} == {
        *model.parameters()
    }
    all_kwargs = [advice.kwargs, *([] if advice.companion is None else [advice.companion.kwargs])]
    for (optimizer, scheduler), kwargs in zip(pairs, all_kwargs, strict=True):
        peak = float(str(kwargs["lr"]))
        for step in range(50):
            expected = compute_lr(advice.schedule, peak, step)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-4)
            optimizer.zero_grad()
            model(torch.randn(2, 4)).square().mean().backward()
            optimizer.step()
            scheduler.step()


def test_resume_within_a_shuffled_epoch(rules: CompiledRules, tmp_path: Path) -> None:
    """Seven batches per epoch, with dropout, interrupted in the middle of the second epoch."""
    _, text = write_program(rules, "python", {"model": "transformer", "optimizer": "adamw"})
    module = frameworks.load_program(text, tmp_path)
    module.checkpoint_path = str(tmp_path / "saved.pt")
    batch_sums: list[float] = []
    compute_loss = module.compute_loss

    def record_batch(model: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        batch_sums.append(float(x.sum()))
        return compute_loss(model, x, y)

    module.compute_loss = record_batch

    def make_model() -> tuple[torch.nn.Module, Any]:
        model, batches = module.make_example()
        torch.manual_seed(7)
        data = torch.utils.data.Subset(batches.dataset, range(7 * 32))
        model = torch.nn.Sequential(model, torch.nn.Dropout(0.1))
        return model, torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)

    uninterrupted, batches = make_model()
    module.train(uninterrupted, batches)
    expected_sums, batch_sums[:] = list(batch_sums), []
    module.train(*make_model(), steps=10)
    module.train(*(resumed := make_model()), checkpoint=module.checkpoint_path)
    assert batch_sums == expected_sums
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted.parameters(), resumed[0].parameters(), strict=True))


@pytest.mark.parametrize("model", ["diffusion", "gan"])
def test_average_of_the_weights_resumes(rules: CompiledRules, tmp_path: Path, model: str) -> None:
    advice, text = write_program(rules, "python", {"model": model, "steps": 6})
    module = frameworks.load_program(text, tmp_path)
    decay = next(float(str(number.value)) for number in advice.hyperparameters if number.name == "ema_decay")
    states = []
    for steps in ([6], [3, 6]):
        module.checkpoint_path, checkpoint = str(tmp_path / f"{len(steps)}.pt"), None
        for last in steps:
            torch.manual_seed(1)
            module.train(*module.make_example(), checkpoint=checkpoint, steps=last)
            checkpoint = module.checkpoint_path
        state = torch.load(module.checkpoint_path)
        states.append(state["averaged"] if "averaged" in state else state["states"][-1])
    assert int(states[0]["n_averaged"]) == int(states[1]["n_averaged"]) == 6
    assert f"get_ema_multi_avg_fn({decay})" in text
    if model == "diffusion":  # the program of a GAN does not restore the order of the batches
        assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    codes = {framework: write_code(rules, advice, framework) for framework in ("python", "snippet")}
    noted = {
        framework for framework, code in codes.items() if any("Average the weights" in note for note in code.notes)
    }
    assert noted == {"snippet"}


def test_layer_decay_is_noted(rules: CompiledRules) -> None:
    code = write_code(rules, advise(rules, {"model": "vit", "objective": "masked", "task": "finetune"}), "python")
    assert any("0.7" in note for note in code.notes)


def test_empty_data_loader_is_an_error(rules: CompiledRules, tmp_path: Path) -> None:
    for framework in ("python", "accelerate"):
        require(framework)
        _, text = write_program(rules, framework, {"model": "transformer", "optimizer": "sgd"})
        module = frameworks.load_program(text, tmp_path)
        module.checkpoint_path = str(tmp_path / framework)
        model, _ = module.make_example()
        with pytest.raises(RuntimeError, match="no batches left at step 0 of 20"):
            module.train(model, torch.utils.data.DataLoader([]) if framework == "accelerate" else iter(()))


def test_sparse_gradients_exclude_fused(rules: CompiledRules, tmp_path: Path) -> None:
    """Fused steps do not support sparse gradients."""
    _, text = write_program(rules, "python", {"model": "recsys", "sparse_gradients": True, "precision": "fp32"})
    module = frameworks.load_program(text, tmp_path)
    table = torch.nn.Embedding(50, 8, sparse=True)
    optimizer, _ = module.configure(table)
    table(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    assert "fused" not in text


@pytest.mark.parametrize("model", [torch.nn.Embedding(5, 4), torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(3, 3, False)])
def test_one_optimizer_if_the_other_has_no_parameters(rules: CompiledRules, tmp_path: Path, model: Any) -> None:
    _, text = write_program(rules, "python", {"model": "transformer", "optimizer": "muon"})
    optimizers, schedules = frameworks.load_program(text, tmp_path).configure(model)
    assert len(optimizers) == len(schedules) == 1


def test_heads_are_recognized_by_whole_words(rules: CompiledRules, tmp_path: Path) -> None:
    _, text = write_program(rules, "python", {"model": "transformer", "optimizer": "muon"})
    layer = torch.nn.TransformerDecoderLayer(16, 2, 32)
    model = torch.nn.ModuleDict({"layers": layer, "lm_head": torch.nn.Linear(16, 4)})
    optimizers, _ = frameworks.load_program(text, tmp_path).configure(model)
    hidden = {id(p) for p in optimizers[0].param_groups[0]["params"]}
    assert id(layer.multihead_attn.in_proj_weight) in hidden
    assert id(model["lm_head"].weight) not in hidden


def test_trainer_does_not_decay_norms(rules: CompiledRules, tmp_path: Path) -> None:
    """Trainer recognizes norms by name, and does not know `normalization`."""
    _, text = write_program(rules, "hf", {"model": "cnn"})
    module = frameworks.load_program(text, tmp_path)
    model = torch.nn.ModuleDict({"normalization": torch.nn.BatchNorm2d(4), "convolution": torch.nn.Conv2d(1, 4, 3)})
    trainer = module.RecommendedTrainer(model=model, args=module.make_arguments(str(tmp_path), use_cpu=True))
    assert trainer.get_decay_parameter_names(model) == ["convolution.weight"]


@pytest.mark.parametrize("name", sorted(CATALOG.frameworks["hf"].optimizers))
def test_trainer_names_build_the_recommended_optimizer(rules: CompiledRules, name: str, tmp_path: Path) -> None:
    """Trainer has its own defaults, for example for Lion's second beta."""
    advice, text = write_program(rules, "hf", {"model": "transformer", "optimizer": name})
    if not is_importable(advice.implementation):
        pytest.skip(f"{advice.implementation.path} cannot be imported")
    module = frameworks.load_program(text, tmp_path)
    model, rows = module.make_example()
    trainer = module.RecommendedTrainer(
        model=model, args=module.make_arguments(str(tmp_path), use_cpu=True), train_dataset=rows
    )
    groups = trainer.create_optimizer().param_groups
    assert f'optim="{CATALOG.frameworks["hf"].optimizers[name].name}"' in text
    for number in advice.optimizer.hyperparameters:
        key = advice.implementation.arguments.get(number.name, number.name)
        value = advice.kwargs[key]
        # optimi stores betas as beta1 and beta2
        built = groups[0][key] if key in groups[0] else (groups[0]["beta1"], groups[0]["beta2"])
        assert built == pytest.approx(tuple(value) if isinstance(value, list) else value), number.name
    assert [group["weight_decay"] for group in groups] == [pytest.approx(advice.kwargs["weight_decay"]), 0.0]


@pytest.mark.parametrize("name", sorted(CATALOG.frameworks["hf"].schedules))
def test_schedules_of_transformers_differ_as_declared(rules: CompiledRules, name: str) -> None:
    from transformers import get_scheduler

    from optadvise.core.schedules import resolve_schedule

    steps = 100
    advice = advise(rules, {"optimizer": "sgd", "steps": steps})
    schedule = resolve_schedule(CATALOG.scheduler(name), 0.1, steps, 0.1, {})
    numbers = tuple(replace(h, value=0.1) if h.name in ("lr", "warmup_fraction") else h for h in advice.hyperparameters)
    plan = make_plan(rules, replace(advice, schedule=schedule, hyperparameters=numbers), CATALOG.frameworks["hf"])
    nearest = plan.nearest_schedule
    assert nearest is not None
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    settings = dict(nearest.settings)
    scheduler = get_scheduler(
        nearest.name, optimizer, num_warmup_steps=settings.get("warmup_steps", 0), num_training_steps=steps,
        scheduler_specific_kwargs=settings.get("lr_scheduler_kwargs"),
    )  # fmt: skip
    learning_rates = []
    for _ in range(steps):
        learning_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    recommended = [compute_lr(schedule, 0.1, step) for step in range(steps)]
    is_same = recommended == pytest.approx(learning_rates, rel=1e-6, abs=1e-12)
    assert is_same == plan.is_schedule_exact
    if CATALOG.scheduler(name).warmup:  # with warmup in both, Transformers starts at 0
        assert learning_rates[0] == 0.0
        assert recommended[20:] == pytest.approx(learning_rates[20:], rel=0.12)


# -- adversarial loops, policies and preference tuning ----------------------------------------------------------------

LOOPS: list[dict[str, Any]] = [
    {"model": "gan"}, {"model": "gan", "batch_size": 64, "micro_batch": 16, "precision": "amp-fp16"},
    {"model": "gan", "optimizer": "muon", "precision": "bf16"}, {"model": "gan", "gradient_release": True},
    {"model": "rl"}, {"model": "rl", "optimizer": "muon", "batch_size": 64, "micro_batch": 16},
    {"model": "rl", "precision": "amp-bf16"}, {"model": "rl", "precision": "bf16"},
]  # fmt: skip


@pytest.mark.parametrize("answers", LOOPS, ids=str)
def test_gan_and_policy_train_and_resume(rules: CompiledRules, answers: dict[str, Any], tmp_path: Path) -> None:
    advice, text = write_program(rules, "python", answers)
    module = frameworks.load_program(text, tmp_path)
    module.checkpoint_path = str(tmp_path / "checkpoint.pt")

    def make_example() -> tuple[Any, ...]:
        example = module.make_example()
        return example if isinstance(example, tuple) else (example, module.collect)

    *networks, data = make_example()
    before = [p.detach().clone() for network in networks for p in network.parameters()]
    optimizers = [built for network in make_example()[:-1] for built in _as_list(module.configure(network)[0])]
    with frameworks.record_learning_rates() as learning_rates:
        module.train(*networks, data, steps=4)
    updates = 2 if answers["model"] == "gan" else 1
    assert len(learning_rates) == len(optimizers) >= updates  # each network has its own optimizers
    assert all(len(each) == 4 for each in learning_rates.values())
    after = [p for network in networks for p in network.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    *resumed, data = make_example()
    module.train(*resumed, data, checkpoint=module.checkpoint_path, steps=4)
    weights = [p for network in resumed for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, weights, strict=True))
    if "betas" in advice.kwargs and len(optimizers) == updates:
        assert [list(built.param_groups[0]["betas"]) for built in optimizers] == [advice.kwargs["betas"]] * updates


def _as_list(built: Any) -> list[Any]:
    return built if isinstance(built, list) else [built]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_kinds_that_a_framework_cannot_train_are_errors(framework: str) -> None:
    card = CATALOG.frameworks[framework]
    for option, value in [("--model", "gan"), ("--model", "rl"), ("--task", "dpo"), ("--task", "ppo")]:
        result = optadvise("recommend", option, value, "--format", framework)
        expected = (2, "option-conflict") if value in card.rejects else (0, "")
        assert (result.code, result.error) == expected
        if result.failure is not None:
            assert (result.failure.option, result.failure.value) == ("--format", framework)


# Arguments in TRL 1.10 and 1.16 that TrainingArguments does not have: trl/trainer/dpo_config.py and grpo_config.py.
TRL_ARGUMENTS = {"dpo": {"max_length"}, "grpo": {"num_generations"}}


@pytest.mark.parametrize("task", sorted(TRL_ARGUMENTS))
@pytest.mark.parametrize(
    "facts", [{}, {"method": "lora"}, {"optimizer": "adan", "precision": "fp32"}, {"batch_size": 16, "micro_batch": 4}]
)
def test_trl_program_has_the_recommended_arguments(
    rules: CompiledRules, task: str, facts: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import TrainingArguments

    answers = {"model": "transformer", "task": task, "params": 500_000_000, "steps": 50, **facts}
    advice, text = write_program(rules, "hf", answers)
    tree = ast.parse(text)
    call = next(
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict"
    )
    settings = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert settings.keys() <= TrainingArguments.__dataclass_fields__.keys() | TRL_ARGUMENTS[task]
    assert float(settings["learning_rate"]) == advice.kwargs["lr"]
    assert int(settings.get("gradient_accumulation_steps", "1")) == (4 if facts.get("batch_size") else 1)
    pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    module = frameworks.load_program(text, tmp_path)
    quiet: dict[str, Any] = {"use_cpu": True, "max_steps": 1, "save_strategy": "no"}
    quiet |= {"max_completion_length": 4} if task == "grpo" else {}
    trainer = module.train(*module.make_example(), folder=str(tmp_path / "trained"), **quiet)
    assert trainer.state.global_step == 1
    assert trainer.optimizer.param_groups[0]["weight_decay"] == advice.kwargs["weight_decay"]


# -- configuration files ----------------------------------------------------------------------------------------------

SITUATIONS: list[dict[str, Any]] = [
    {"model": "transformer"}, {"optimizer": "sgd-momentum"}, {"optimizer": "soap"}, {"optimizer": "adan"},
    {"optimizer": "stable-adamw"}, {"optimizer": "lion"}, {"optimizer": "adagrad"}, {"optimizer": "sgd-nesterov"},
    {"task": "finetune", "method": "qlora", "model": "transformer"},
    {"task": "finetune", "method": "lora", "model": "transformer", "lora_rank": 8, "lora_targets": "q,v"},
    {"gpus": 8, "shard": "zero3", "batch_size": 1024, "micro_batch": 8}, {"offload": True, "gpus": 2},
    {"precision": "bf16"}, {"precision": "amp-fp16"}, {"gradient_release": True}, {"checkpointing": "full"},
]  # fmt: skip


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_axolotl_configuration_matches_its_schema(rules: CompiledRules, answers: dict[str, Any]) -> None:
    """Keys and names are those of the schema that `rules/frameworks/axolotl.yaml` cites, and of Transformers."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    code = write_code(rules, advise(rules, answers), "axolotl")
    data = yaml.safe_load(code.text)
    accepted = {
        "optimizer", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler",
        "lr_scheduler_kwargs", "cosine_min_lr_ratio", "warmup_steps", "max_grad_norm", "max_steps",
        "micro_batch_size", "gradient_accumulation_steps", "bf16", "bfloat16", "fp16", "gradient_checkpointing",
        "adapter", "load_in_4bit", "lora_r", "lora_alpha", "lora_dropout", "lora_target_linear", "lora_target_modules",
        "fsdp_version", "fsdp_config", "plugins", "liger_fused_linear_cross_entropy",
    }  # fmt: skip
    assert data.keys() <= accepted
    axolotl = {"optimi_adamw", "ao_adamw_4bit", "ao_adamw_8bit", "ao_adamw_fp8", "adopt_adamw", "came_pytorch", "muon"}
    assert data["optimizer"] in {name.value for name in OptimizerNames} | axolotl
    assert data["lr_scheduler"] in {kind.value for kind in SchedulerType} | {"one_cycle", "rex"}
    assert isinstance(data["learning_rate"], float)
    named = rules.catalog.frameworks["axolotl"].optimizers[code.optimizer]
    assert data["optimizer"] == named.name


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_torchtune_configuration_builds_the_optimizer(rules: CompiledRules, answers: dict[str, Any]) -> None:
    """`_component_` is an import path that accepts the other keys as arguments, as `tune validate` checks."""
    code = write_code(rules, advise(rules, answers), "torchtune")
    data = yaml.safe_load(code.text)
    arguments = dict(data["optimizer"])
    module, name = arguments.pop("_component_").rsplit(".", 1)
    optimizer_class = getattr(__import__(module, fromlist=[name]), name)
    kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    optimizer_class([torch.nn.Parameter(torch.zeros(4, 4))], **kwargs)
    assert data["optimizer_in_bwd"] == bool(answers.get("gradient_release"))
    assert not data["optimizer_in_bwd"] or (data["clip_grad_norm"] is None and data["gradient_accumulation_steps"] == 1)
    assert data["dtype"] in ("bf16", "fp32")
    if data.get("lr_scheduler"):
        assert data["lr_scheduler"]["_component_"].startswith("torchtune.training.lr_schedulers.get_cosine")
    if find_spec("torchtune") is None:
        return  # torchtune requires a torchao version of 2025
    from omegaconf import OmegaConf
    from torchtune.config import validate

    validate(OmegaConf.create(data))


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_deepspeed_accepts_its_configuration(rules: CompiledRules, answers: dict[str, Any]) -> None:
    code = write_code(rules, advise(rules, answers), "deepspeed")
    data = json.loads(code.text)
    named = data.get("optimizer")
    framework = CATALOG.frameworks["deepspeed"]
    if named is None:
        assert any("deepspeed.initialize" in note for note in code.notes)
    else:
        assert named["type"] in {own.name for own in framework.optimizers.values()} or hasattr(
            torch.optim, named["type"]
        )
    assert ("zero_optimization" in data) == bool(answers.get("shard") or answers.get("offload"))
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install --no-build-isolation deepspeed")
    from deepspeed.runtime.config import DeepSpeedConfig

    # The test has one process, so DeepSpeed computes the total batch size.
    settings = {key: value for key, value in data.items() if value != "auto" and key != "train_batch_size"}
    settings.setdefault("train_micro_batch_size_per_gpu", 1)
    config = DeepSpeedConfig(settings, mesh_device=None)
    assert config.gradient_clipping == data["gradient_clipping"]
    assert config.bfloat16_config.enabled == data["bf16"]["enabled"]


# -- unsupported settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOG.optimizer_ids)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_substitute_optimizer_is_noted(rules: CompiledRules, framework: str, name: str) -> None:
    advice = advise(rules, {"model": "transformer", "optimizer": name})
    code = write_code(rules, advice, framework)
    if code.optimizer != name:
        other = CATALOG.optimizer(code.optimizer)
        assert any(CATALOG.optimizer(name).name in note and other.name in note for note in code.notes)
        assert advise(rules, {"model": "transformer", "optimizer": other.id}).optimizer == other
    published = frameworks.page_cells()[name, framework] if framework in frameworks.COLUMNS else frameworks.RUNS
    assert published.startswith(
        ("no;", "not here") if code.optimizer != name else (frameworks.RUNS, "writes", "not here")
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_setting_is_in_the_text_or_in_a_note(rules: CompiledRules, framework: str) -> None:
    facts: FactValues = {
        "gpus": 8,
        "shard": "zero2",
        "checkpointing": "selective",
        "loss": "chunked",
        "attention": "eager",
    }
    code = write_code(rules, advise(rules, {**facts, "model": "transformer"}), framework)
    card = CATALOG.frameworks[framework]
    note = " ".join(code.notes)
    for name in facts:
        if name not in card.supported_facts and not (name == "shard" and card.shard_launch):
            assert f"--{name}" in note
    if "checkpointing" in card.supported_facts:
        assert card.substitutes["selective"] in note
    if card.launch is not None and card.output_format != "json":
        command = card.shard_launch.get("zero2", card.launch).replace("{gpus}", "8")
        assert command in note
        assert command in code.text.replace("\n# ", " ")
    released = " ".join(write_code(rules, advise(rules, {"gradient_release": True}), framework).notes)
    assert ("gradient_release" in card.supported_facts) != ("does not support gradient release" in released)


@pytest.mark.parametrize(
    ("targets", "attention", "mlp"),
    [("q,v", ["q_proj", "v_proj"], False), ("q,gate", ["q_proj"], True),
     ("gate,up", ["q_proj", "k_proj", "v_proj", "output_proj"], True),
     ("all", ["q_proj", "k_proj", "v_proj", "output_proj"], True)],
)  # fmt: skip
def test_torchtune_adapter_targets(rules: CompiledRules, targets: str, attention: list[str], mlp: bool) -> None:
    facts = {"task": "finetune", "method": "lora", "model": "transformer", "lora_targets": targets}
    code = write_code(rules, advise(rules, facts), "torchtune")
    model = yaml.safe_load(code.text)["model"]
    assert (sorted(model["lora_attn_modules"]), model["apply_lora_to_mlp"]) == (sorted(attention), mlp)
    assert any("feed-forward" in note for note in code.notes) == (targets in ("q,gate", "gate,up"))


@pytest.mark.parametrize("framework", [framework for framework in FRAMEWORKS if framework != "deepspeed"])
@pytest.mark.parametrize("facts", [{}, {"method": "qlora"}, {"lora_rank": 64}, {"lora_targets": "q,v"}])
def test_adapters_have_the_recommended_numbers(rules: CompiledRules, framework: str, facts: FactValues) -> None:
    advice = advise(rules, {"model": "transformer", "task": "finetune", "method": "lora", **facts})
    numbers = {number.name: number.value for number in advice.hyperparameters}
    text = write_code(rules, advice, framework).text
    for name in ("lora_alpha", "lora_dropout"):
        written = re.search(rf"{name}[=:] ?([\d.]+)", text)
        assert written is not None
        assert float(written[1]) == numbers[name]


def test_the_page_has_a_row_for_every_optimizer_and_a_column_for_every_framework() -> None:
    assert set(frameworks.page_cells()) == {(o, f) for o in CATALOG.optimizer_ids for f in frameworks.COLUMNS}


@pytest.mark.parametrize(
    ("framework", "facts", "expected"),
    [
        ("hf", {}, ["accelerate", "torch", "transformers"]),
        ("hf", {"optimizer": "adamw8bit"}, ["accelerate", "bitsandbytes", "torch", "transformers"]),
        ("torchtune", {}, ["torch", "torchao", "torchtune"]),
        ("python", {"optimizer": "muon"}, ["torch>=2.9"]),
        ("python", {"method": "qlora", "optimizer": "adamw"},
         ["accelerate", "bitsandbytes", "peft", "torch", "transformers"]),
        ("axolotl", {"method": "qlora", "optimizer": "adamw"}, ["axolotl", "torch"]),  # which installs the others
    ],
)  # fmt: skip
def test_required_packages_are_complete(
    rules: CompiledRules, framework: str, facts: dict[str, str], expected: list[str]
) -> None:
    run: FactValues = {"model": "transformer", "params": 124e6, "task": "finetune", **facts}
    lines = list_header(make_plan(rules, advise(rules, run), CATALOG.frameworks[framework]))
    packages = next(line for line in lines if line.startswith("Requirements:")).partition("install ")[2]
    assert shlex.split(packages) == expected
