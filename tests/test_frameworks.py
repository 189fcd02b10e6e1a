"""What is written for a framework trains there as advised; `docs/frameworks.md` is what was seen.

`python -m tests.frameworks` writes that page anew.
"""

from __future__ import annotations

import itertools
import json
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
from optadvise.codegen.plan import make_plan
from optadvise.codegen.write import write_code
from optadvise.core.records import FactValues, Recommendation
from optadvise.core.schedules import compute_lr
from optadvise.rulebase.catalog import load
from tests import frameworks
from tests.cli import optadvise
from tests.conftest import rotated
from tests.frameworks import PYTHON, advised, importable, run

CATALOG = load()
# Not ours: what frameworks and their packages deprecate, and what they say of a CPU.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

OTHERS = [framework for framework in PYTHON if framework != "python"]  # take turns on each push
RUNS: list[dict[str, Any]] = [
    {"precision": "fp32"}, {"precision": "bf16"}, {"precision": "amp-fp16"},
    {"batch_size": 64, "micro_batch": 8, "steps": 2},
    {"task": "finetune", "method": "lora", "steps": 8}, {"task": "finetune", "method": "qlora", "steps": 8},
    {"task": "finetune", "method": "lora", "optimizer": "adamw8bit", "batch_size": 32, "micro_batch": 8, "steps": 2},
    {"optimizer": "muon", "batch_size": 64, "micro_batch": 8, "steps": 2},
]  # fmt: skip


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def needs(framework: str) -> None:
    package = CATALOG.frameworks[framework].package
    if find_spec(str(package)) is None:
        pytest.skip(f"{package} is not installed: pip install {package}")


def holds(rules: CompiledRules, framework: str, answers: dict[str, Any], folder: Path) -> tuple[Recommendation, bool]:
    """Train, and check that the loss falls, each step has its rate, and an interrupted run ends where the whole did."""
    needs(framework)
    taken, text = advised(rules, framework, answers)
    if not importable(taken.implementation):
        made = taken.implementation
        pytest.skip(f"{made.path} cannot be imported here: pip install {made.package}")
    ran = run(framework, text, folder)
    assert ran.after < ran.before
    steps = taken.situation.steps
    peaks = [float(str(taken.kwargs["lr"]))]
    if taken.companion is not None:
        peaks.append(float(str(taken.companion.kwargs["lr"])))
    wanted = [[compute_lr(taken.schedule, peak, step) for step in range(steps)] for peak in peaks]
    assert len(ran.rates) in (len(peaks), 6)  # six weights, each with an optimizer of its own
    for each in ran.rates:
        assert any(each == pytest.approx(one, rel=1e-6) for one in wanted)
    if ran.again is not None:
        assert all(torch.equal(a, b) for a, b in zip(ran.weights, ran.again, strict=True))
    return taken, ran.again is not None


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        *(("python", name) for name in CATALOG.optimizer_ids),
        *itertools.chain.from_iterable(
            rotated(2, [(framework, name) for name in CATALOG.optimizer_ids]) for framework in OTHERS
        ),
    ],
)
def test_every_optimizer_trains_in_every_framework(
    rules: CompiledRules, framework: str, name: str, tmp_path: Path
) -> None:
    told = frameworks.page_cells()[name, framework]
    taken, continued = holds(rules, framework, {"model": "transformer", "optimizer": name}, tmp_path)
    runs = frameworks.RUNS if continued else f"{frameworks.RUNS}, not continued"
    assert told == (runs if taken.optimizer.id == name else f"no; {taken.optimizer.id}")


@pytest.mark.parametrize("framework", ["python", *rotated(1, OTHERS)])
def test_what_is_printed_runs_as_it_stands(framework: str, tmp_path: Path) -> None:
    needs(framework)
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
        *(("python", answers) for answers in RUNS),
        *itertools.chain.from_iterable(rotated(1, [(framework, answers) for answers in RUNS]) for framework in OTHERS),
    ],
    ids=str,
)
def test_every_kind_of_run_trains_in_every_framework(
    rules: CompiledRules, framework: str, answers: dict[str, Any], tmp_path: Path
) -> None:
    assert holds(rules, framework, {"model": "transformer", "optimizer": "adamw", **answers}, tmp_path)[1]


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_weights_are_stepped_while_gradients_are_made(rules: CompiledRules, tmp_path: Path, name: str) -> None:
    answers = {"model": "transformer", "optimizer": name, "gradient_release": True}
    assert holds(rules, "python", answers, tmp_path)[1]
    taken, text = advised(rules, "python", answers)
    module = frameworks.loaded(text, tmp_path)
    model, batches = module.stand_in()
    module.configure(model)
    x, y = next(iter(batches))
    module.loss_of(model, x, y).backward()
    assert all(p.grad is None for p in model.parameters())
    assert taken.optimizer.id == name


def test_a_run_goes_on_over_a_shuffled_epoch_where_it_was(rules: CompiledRules, tmp_path: Path) -> None:
    """Seven batches an epoch, with dropout, stopped in the middle of the second one."""
    _, text = advised(rules, "python", {"model": "transformer", "optimizer": "adamw"})
    module = frameworks.loaded(text, tmp_path)
    module.save_to = str(tmp_path / "saved.pt")
    seen: list[float] = []
    loss_of = module.loss_of

    def watched(model: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        seen.append(float(x.sum()))
        return loss_of(model, x, y)

    module.loss_of = watched

    def fresh() -> tuple[torch.nn.Module, Any]:
        model, batches = module.stand_in()
        torch.manual_seed(7)
        data = torch.utils.data.Subset(batches.dataset, range(7 * 32))
        model = torch.nn.Sequential(model, torch.nn.Dropout(0.1))
        return model, torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)

    whole, batches = fresh()
    module.train(whole, batches)
    order, seen[:] = list(seen), []
    module.train(*fresh(), steps=10)
    module.train(*(again := fresh()), checkpoint=module.save_to)
    assert seen == order
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again[0].parameters(), strict=True))


def test_batches_that_run_out_are_told(rules: CompiledRules, tmp_path: Path) -> None:
    for framework in ("python", "accelerate"):
        needs(framework)
        _, text = advised(rules, framework, {"model": "transformer", "optimizer": "sgd"})
        module = frameworks.loaded(text, tmp_path)
        module.save_to = str(tmp_path / framework)
        model, _ = module.stand_in()
        with pytest.raises(RuntimeError, match="no more batches, after 0 of 20"):
            module.train(model, torch.utils.data.DataLoader([]) if framework == "accelerate" else iter(()))


def test_sparse_gradients_are_stepped(rules: CompiledRules, tmp_path: Path) -> None:
    """No step in one kernel takes them."""
    _, text = advised(rules, "python", {"model": "recsys", "sparse_gradients": True, "precision": "fp32"})
    module = frameworks.loaded(text, tmp_path)
    table = torch.nn.Embedding(50, 8, sparse=True)
    optimizer, _ = module.configure(table)
    table(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    assert "fused" not in text


@pytest.mark.parametrize("model", [torch.nn.Embedding(5, 4), torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(3, 3, False)])
def test_a_pair_whose_model_has_nothing_for_one_of_them(rules: CompiledRules, tmp_path: Path, model: Any) -> None:
    _, text = advised(rules, "python", {"model": "transformer", "optimizer": "muon"})
    optimizers, schedules = frameworks.loaded(text, tmp_path).configure(model)
    assert len(optimizers) == len(schedules) == 1


def test_heads_are_known_by_whole_words(rules: CompiledRules, tmp_path: Path) -> None:
    _, text = advised(rules, "python", {"model": "transformer", "optimizer": "muon"})
    layer = torch.nn.TransformerDecoderLayer(16, 2, 32)
    model = torch.nn.ModuleDict({"layers": layer, "lm_head": torch.nn.Linear(16, 4)})
    optimizers, _ = frameworks.loaded(text, tmp_path).configure(model)
    hidden = {id(p) for p in optimizers[0].param_groups[0]["params"]}
    assert id(layer.multihead_attn.in_proj_weight) in hidden
    assert id(model["lm_head"].weight) not in hidden


def test_trainer_spares_every_norm(rules: CompiledRules, tmp_path: Path) -> None:
    """Trainer itself goes by names, and a convnet's `normalization` is none of them."""
    _, text = advised(rules, "hf", {"model": "cnn"})
    module = frameworks.loaded(text, tmp_path)
    model = torch.nn.ModuleDict({"normalization": torch.nn.BatchNorm2d(4), "convolution": torch.nn.Conv2d(1, 4, 3)})
    trainer = module.AdvisedTrainer(model=model, args=module.arguments(str(tmp_path), use_cpu=True))
    assert trainer.get_decay_parameter_names(model) == ["convolution.weight"]


@pytest.mark.parametrize("name", sorted(CATALOG.frameworks["hf"].optimizers))
def test_what_trainer_builds_by_a_name_is_what_was_advised(rules: CompiledRules, name: str, tmp_path: Path) -> None:
    """Trainer fills in what it is not told, Lion's second beta among it."""
    taken, text = advised(rules, "hf", {"model": "transformer", "optimizer": name})
    if not importable(taken.implementation):
        pytest.skip(f"{taken.implementation.path} cannot be imported here")
    module = frameworks.loaded(text, tmp_path)
    model, rows = module.stand_in()
    trainer = module.AdvisedTrainer(model=model, args=module.arguments(str(tmp_path), use_cpu=True), train_dataset=rows)
    groups = trainer.create_optimizer().param_groups
    assert f'optim="{CATALOG.frameworks["hf"].optimizers[name].name}"' in text
    for number in taken.optimizer.hyperparameters:
        key = taken.implementation.arguments.get(number.name, number.name)
        value = taken.kwargs[key]
        # optimi takes a pair apart
        found = groups[0][key] if key in groups[0] else (groups[0]["beta1"], groups[0]["beta2"])
        assert found == pytest.approx(tuple(value) if isinstance(value, list) else value), number.name
    assert [group["weight_decay"] for group in groups] == [pytest.approx(taken.kwargs["weight_decay"]), 0.0]


@pytest.mark.parametrize("name", sorted(CATALOG.frameworks["hf"].schedules))
def test_transformers_own_schedules_differ_where_we_say_so(rules: CompiledRules, name: str) -> None:
    from transformers import get_scheduler

    from optadvise.core.schedules import resolve_schedule

    steps = 100
    advice = advise(rules, {"optimizer": "sgd", "steps": steps})
    schedule = resolve_schedule(CATALOG.scheduler(name), 0.1, steps, 0.1, {})
    numbers = tuple(replace(h, value=0.1) if h.name in ("lr", "warmup_fraction") else h for h in advice.hyperparameters)
    taken = make_plan(rules, replace(advice, schedule=schedule, hyperparameters=numbers), CATALOG.frameworks["hf"])
    nearest = taken.nearest_schedule
    assert nearest is not None
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    settings = dict(nearest.settings)
    theirs = get_scheduler(
        nearest.name, optimizer, num_warmup_steps=settings.get("warmup_steps", 0), num_training_steps=steps,
        scheduler_specific_kwargs=settings.get("lr_scheduler_kwargs"),
    )  # fmt: skip
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = [compute_lr(schedule, 0.1, step) for step in range(steps)]
    same = ours == pytest.approx(rates, rel=1e-6, abs=1e-12)
    assert same == taken.is_schedule_exact
    if "ramp starts at 0" in (nearest.difference or ""):
        assert rates[0] == 0.0
        assert ours[20:] == pytest.approx(rates[20:], rel=0.12)


# -- configuration files ---------------------------------------------------------------------------------------------

SITUATIONS: list[dict[str, Any]] = [
    {"model": "transformer"}, {"model": "cnn"}, {"optimizer": "soap"}, {"optimizer": "adan"},
    {"optimizer": "stable-adamw"}, {"optimizer": "lion"}, {"optimizer": "adagrad"}, {"optimizer": "sgd-nesterov"},
    {"task": "finetune", "method": "qlora", "model": "transformer"},
    {"task": "finetune", "method": "lora", "model": "transformer", "lora_rank": 8, "lora_targets": "q,v"},
    {"gpus": 8, "shard": "zero3", "batch_size": 1024, "micro_batch": 8}, {"offload": True, "gpus": 2},
    {"precision": "bf16"}, {"precision": "amp-fp16"}, {"gradient_release": True}, {"checkpointing": "full"},
]  # fmt: skip


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_axolotl_is_told_only_what_its_schema_knows(rules: CompiledRules, answers: dict[str, Any]) -> None:
    """The keys and names of the schema that `rules/frameworks/axolotl.yaml` cites, and of transformers that it uses."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    code = write_code(rules, advise(rules, answers), "axolotl")
    data = yaml.safe_load(code.text)
    known = {
        "optimizer", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler",
        "lr_scheduler_kwargs", "cosine_min_lr_ratio", "warmup_steps", "max_grad_norm", "max_steps",
        "micro_batch_size", "gradient_accumulation_steps", "bf16", "bfloat16", "fp16", "gradient_checkpointing",
        "adapter",         "load_in_4bit", "lora_r", "lora_alpha", "lora_target_linear", "lora_target_modules",
    }  # fmt: skip
    assert data.keys() <= known
    own = {"optimi_adamw", "ao_adamw_4bit", "ao_adamw_8bit", "ao_adamw_fp8", "adopt_adamw", "came_pytorch", "muon"}
    assert data["optimizer"] in {name.value for name in OptimizerNames} | own
    assert data["lr_scheduler"] in {kind.value for kind in SchedulerType} | {"one_cycle", "rex"}
    assert isinstance(data["learning_rate"], float)
    taken = rules.catalog.frameworks["axolotl"].optimizers[code.optimizer]
    assert data["optimizer"] == taken.name


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_torchtune_can_build_what_its_recipe_is_told(rules: CompiledRules, answers: dict[str, Any]) -> None:
    """Its `_component_` is an import path, whose arguments have to bind, as its own `tune validate` checks."""
    code = write_code(rules, advise(rules, answers), "torchtune")
    data = yaml.safe_load(code.text)
    told = dict(data["optimizer"])
    module, name = told.pop("_component_").rsplit(".", 1)
    built = getattr(__import__(module, fromlist=[name]), name)
    numbers = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    built([torch.nn.Parameter(torch.zeros(4, 4))], **numbers)
    assert data["optimizer_in_bwd"] == bool(answers.get("gradient_release"))
    assert not data["optimizer_in_bwd"] or (data["clip_grad_norm"] is None and data["gradient_accumulation_steps"] == 1)
    assert data["dtype"] in ("bf16", "fp32")
    if data.get("lr_scheduler"):
        assert data["lr_scheduler"]["_component_"].startswith("torchtune.training.lr_schedulers.get_cosine")
    if find_spec("torchtune") is None:
        return  # what follows was run where it is installed; it asks for a torchao of 2025
    from omegaconf import OmegaConf
    from torchtune.config import validate

    validate(OmegaConf.create(data))


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_deepspeed_reads_its_configuration(rules: CompiledRules, answers: dict[str, Any]) -> None:
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

    # One process reads it here, so that the batch of all GPUs is left for it to work out.
    numbers = {key: value for key, value in data.items() if value != "auto" and key != "train_batch_size"}
    numbers.setdefault("train_micro_batch_size_per_gpu", 1)
    read = DeepSpeedConfig(numbers, mesh_device=None)
    assert read.gradient_clipping == data["gradient_clipping"]
    assert read.bfloat16_config.enabled == data["bf16"]["enabled"]


# -- what cannot be said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOG.optimizer_ids)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_another_optimizer_is_never_taken_silently(rules: CompiledRules, framework: str, name: str) -> None:
    advice = advise(rules, {"model": "transformer", "optimizer": name})
    code = write_code(rules, advice, framework)
    if code.optimizer != name:
        other = CATALOG.optimizer(code.optimizer)
        assert any(CATALOG.optimizer(name).name in note and other.name in note for note in code.notes)
        assert advise(rules, {"model": "transformer", "optimizer": other.id}).optimizer == other
    told = frameworks.page_cells()[name, framework]
    assert told.startswith(("no;", "not here") if code.optimizer != name else (frameworks.RUNS, "writes", "not here"))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_was_said_of_a_run_is_in_the_text_or_in_a_note(rules: CompiledRules, framework: str) -> None:
    said: FactValues = {
        "gpus": 8,
        "shard": "zero2",
        "checkpointing": "selective",
        "loss": "chunked",
        "attention": "eager",
    }
    code = write_code(rules, advise(rules, {**said, "model": "transformer"}), framework)
    known = CATALOG.frameworks[framework]
    note = " ".join(code.notes)
    for name in said:
        if name not in known.supported_facts:
            assert f"--{name}" in note
    if "checkpointing" in known.supported_facts:
        assert "all activations or none" in note
    if known.launch is not None and known.output_format != "json":
        assert "On 8 GPUs: " in note
        assert "On 8 GPUs: " in code.text.replace("\n# ", " ")
    released = write_code(rules, advise(rules, {"gradient_release": True}), framework)
    assert ("gradient_release" in known.supported_facts) != any("after the backward pass" in n for n in released.notes)


@pytest.mark.parametrize(
    ("targets", "attention", "mlp"),
    [("q,v", ["q_proj", "v_proj"], False), ("q,gate", ["q_proj"], True),
     ("gate,up", ["q_proj", "k_proj", "v_proj", "output_proj"], True),
     ("all", ["q_proj", "k_proj", "v_proj", "output_proj"], True)],
)  # fmt: skip
def test_torchtune_adapts_what_was_asked_or_says_so(
    rules: CompiledRules, targets: str, attention: list[str], mlp: bool
) -> None:
    said = {"task": "finetune", "method": "lora", "model": "transformer", "lora_targets": targets}
    code = write_code(rules, advise(rules, said), "torchtune")
    model = yaml.safe_load(code.text)["model"]
    assert (sorted(model["lora_attn_modules"]), model["apply_lora_to_mlp"]) == (sorted(attention), mlp)
    assert any("feed-forward" in note for note in code.notes) == (targets in ("q,gate", "gate,up"))


def test_the_page_has_a_row_for_every_optimizer_and_a_column_for_every_framework() -> None:
    assert set(frameworks.page_cells()) == {(o, f) for o in CATALOG.optimizer_ids for f in FRAMEWORKS}
