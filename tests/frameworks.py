"""Run generated programs: an uninterrupted run, and one that is saved half way and resumed."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.codegen import FRAMEWORKS
from optadvise.codegen.plan import make_plan
from optadvise.codegen.write import write_code
from optadvise.core.advice_records import Recommendation
from optadvise.core.cards import Implementation

STEPS = 20
_COUNT = itertools.count()


class RunResult(NamedTuple):
    """Result of an uninterrupted and a resumed run."""

    loss_before: float
    loss_after: float
    learning_rates: list[list[float]]  # by optimizer and step
    weights: list[torch.Tensor]
    resumed_weights: list[torch.Tensor] | None  # None if the framework cannot resume this optimizer


def is_importable(implementation: Implementation) -> bool:
    try:
        module, name = implementation.path.rsplit(".", 1)
        getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return True


def write_program(rules: CompiledRules, framework: str, answers: dict[str, Any]) -> tuple[Recommendation, str]:
    """Return the recommendation that a framework supports, and its program."""
    advice = advise(rules, {"steps": STEPS, **answers})
    supported = make_plan(rules, advice, rules.catalog.frameworks[framework]).advice
    return supported, write_code(rules, advice, framework).text


def load_program(text: str, folder: Path) -> Any:
    """Import a program's text as a module."""
    file = folder / f"program_{next(_COUNT)}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def record_learning_rates() -> Iterator[dict[int, list[float]]]:
    """Record the learning rate of every optimizer at each step."""
    learning_rates: dict[int, list[float]] = {}

    def record(optimizer: Any, *_: Any) -> None:
        learning_rates.setdefault(id(optimizer), []).append(float(optimizer.param_groups[0]["lr"]))

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield learning_rates
    finally:
        handle.remove()


def run(framework: str, text: str, folder: Path) -> RunResult:
    """Run a program without interruption, and again in two halves.

    Args:
        framework: Framework of the program.
        text: Text of the program.
        folder: Folder for checkpoints.
    """
    module = load_program(text, folder)
    return _RUNNERS[framework](module, folder, module.total_steps // 2)


def _weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def _loss(module: Any, model: torch.nn.Module, batches: Any) -> float:
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        losses = [float(module.compute_loss(model, x.to(dtype) if x.is_floating_point() else x, y)) for x, y in batches]
    return sum(losses) / len(losses)


def _loop(module: Any, folder: Path, half: int) -> RunResult:
    """Run a loop that saves checkpoints itself: plain PyTorch or Accelerate."""
    before = _loss(
        module, *module.make_example()
    )  # of a model of its own: bitsandbytes settles on the first pass's dtype
    model, batches = module.make_example()
    module.checkpoint_path = str(folder / "uninterrupted")
    with record_learning_rates() as learning_rates:
        module.train(model, batches)
    after, weights = _loss(module, model, batches), _weights(model)

    module.checkpoint_path = str(folder / "half")
    module.train(*module.make_example(), steps=half)
    model, batches = module.make_example()
    for p in model.parameters():  # only the checkpoint restores the weights
        if p.requires_grad:
            p.data.add_(1)
    module.train(model, batches, checkpoint=module.checkpoint_path)
    return RunResult(before, after, [*learning_rates.values()], weights, _weights(model))


def _accelerate(module: Any, folder: Path, half: int) -> RunResult:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    return _loop(module, folder, half)


class Resumable(torch.utils.data.DataLoader):  # type: ignore[misc]
    """Stateful data loader, which Lightning requires to resume within an epoch."""

    batches_seen = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in itertools.islice(super().__iter__(), self.batches_seen, None):
            self.batches_seen += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches_seen": self.batches_seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches_seen = state["batches_seen"]


def _lightning(module: Any, folder: Path, half: int) -> RunResult:
    from lightning.pytorch.callbacks import ModelCheckpoint

    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False,
                             "default_root_dir": folder, "accelerator": "cpu"}  # fmt: skip

    def make_model() -> tuple[torch.nn.Module, Resumable]:
        model, batches = module.make_example()
        return model, Resumable(batches.dataset, batch_size=batches.batch_size)

    model, batches = make_model()
    optimizers, _ = module.configure(model)
    steps = half * (len(optimizers) if isinstance(optimizers, list) else 1)  # Lightning counts the steps of both
    before = _loss(module, *module.make_example())
    keep = ModelCheckpoint(folder, "half", every_n_train_steps=steps, save_top_k=1, monitor="step", mode="min")
    with record_learning_rates() as learning_rates:
        module.train(model, batches, callbacks=[keep], **quiet)
    after, weights = _loss(module, model, module.make_example()[1]), _weights(model)
    model, batches = make_model()
    try:
        module.train(model, batches, checkpoint=folder / "half.ckpt", enable_checkpointing=False, **quiet)
    except RuntimeError as error:  # Lightning cannot load the optimizer state of torchao
        if "map_location" not in str(error):
            raise
        return RunResult(before, after, [*learning_rates.values()], weights, None)
    return RunResult(before, after, [*learning_rates.values()], weights, _weights(model))


def _trainer(module: Any, folder: Path, half: int) -> RunResult:
    quiet: dict[str, Any] = {"disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
                             "logging_strategy": "no", "save_steps": half}  # fmt: skip
    model, rows = module.make_example()

    def loss(model: torch.nn.Module) -> float:
        tokens = torch.stack([row["input_ids"] for row in rows])
        with torch.no_grad():
            return float(model(input_ids=tokens, labels=tokens).loss)

    before = loss(module.make_example()[0])
    with record_learning_rates() as learning_rates:
        module.train(model, rows, folder=str(folder / "trained"), **quiet)
    after, weights = loss(model), _weights(model)
    model, _ = module.make_example()
    module.train(
        model, rows, folder=str(folder / "again"), checkpoint=str(folder / "trained" / f"checkpoint-{half}"), **quiet
    )
    return RunResult(before, after, [*learning_rates.values()], weights, _weights(model))


_RUNNERS = {"python": _loop, "accelerate": _accelerate, "lightning": _lightning, "hf": _trainer}


# -- page with the results --------------------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "frameworks.md"
RUNS = "runs"
PYTHON = tuple(_RUNNERS)
COLUMNS = tuple(
    framework for framework in FRAMEWORKS if framework != "snippet"
)  # which leaves the training to the user


def page_cells() -> dict[tuple[str, str], str]:
    """Return the cells of the page by optimizer and framework."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    heads = [cell.strip("`") for cell in rows[0][1:]]
    return {(row[0].strip("`"), head): cell for row in rows[2:] for head, cell in zip(heads, row[1:], strict=True)}


def make_cell(rules: CompiledRules, framework: str, name: str, folder: Path) -> str:
    """Run one optimizer in one framework, or write its configuration, and return the cell of the page."""
    from optadvise.codegen.write import write_code

    answers = {"model": "transformer", "optimizer": name}
    code = write_code(rules, advise(rules, {"steps": STEPS, **answers}), framework)
    if code.optimizer != name:
        return f"no; {code.optimizer}"
    if framework not in _RUNNERS:
        implementation = rules.catalog.optimizer(name).implementations[0]
        if rules.catalog.frameworks[framework].any_class and not is_importable(implementation):
            return f"not here: {implementation.package}"
        named = make_plan(rules, advise(rules, answers), rules.catalog.frameworks[framework]).named_optimizer
        client = rules.catalog.frameworks[framework].client
        return "writes, passed from code" if client and named is None else "writes"
    advice, text = write_program(rules, framework, answers)
    if not is_importable(advice.implementation):
        return f"not here: {advice.implementation.package}"
    result = run(framework, text, folder)
    assert result.loss_after < result.loss_before
    if result.resumed_weights is None:
        return f"{RUNS}, not continued"
    assert all(torch.equal(a, b) for a, b in zip(result.weights, result.resumed_weights, strict=True))
    return RUNS


def main() -> None:
    """Regenerate the page."""
    import os
    import tempfile

    from optadvise.rulebase.catalog import load

    rules = CompiledRules(load())
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    lines = [f"| | {' | '.join(f'`{name}`' for name in COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in rules.catalog.optimizer_ids:
        cells = []
        for framework in COLUMNS:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(make_cell(rules, framework, name, Path(folder)))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    before, _, table = PAGE.read_text(encoding="utf-8").partition("<!-- seen -->\n")
    after = table.partition("<!-- end -->")[2]
    PAGE.write_text(f"{before}<!-- seen -->\n{chr(10).join(lines)}\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
