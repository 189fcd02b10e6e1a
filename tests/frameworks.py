"""Runs what is written for a framework: a whole run, half of one that is saved, and the other half from there."""

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
from optadvise.codegen.plan import make_plan
from optadvise.codegen.write import write_code
from optadvise.core.cards import Implementation
from optadvise.core.records import Recommendation

STEPS = 20
_COUNT = itertools.count()


class Ran(NamedTuple):
    """What a run did."""

    before: float  # loss
    after: float
    rates: list[list[float]]  # of each optimizer, at each of its steps
    weights: list[torch.Tensor]
    again: list[torch.Tensor] | None  # weights of the run that was interrupted and continued; None where it cannot be


def importable(made: Implementation) -> bool:
    try:
        module, name = made.path.rsplit(".", 1)
        getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return True


def advised(rules: CompiledRules, framework: str, answers: dict[str, Any]) -> tuple[Recommendation, str]:
    """Return what of the advice a framework can take, and the program."""
    advice = advise(rules, {"steps": STEPS, **answers})
    taken = make_plan(rules, advice, rules.catalog.frameworks[framework]).advice
    return taken, write_code(rules, advice, framework).text


def loaded(text: str, folder: Path) -> Any:
    """Import a program's text as a module."""
    file = folder / f"written_{next(_COUNT)}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def watched() -> Iterator[dict[int, list[float]]]:
    """Note the rate of every optimizer at each of its steps."""
    rates: dict[int, list[float]] = {}

    def note(optimizer: Any, *_: Any) -> None:
        rates.setdefault(id(optimizer), []).append(float(optimizer.param_groups[0]["lr"]))

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield rates
    finally:
        handle.remove()


def run(framework: str, text: str, folder: Path) -> Ran:
    """Run a program as it is told to, and again in two halves.

    Args:
        framework: What it was written for.
        text: The program.
        folder: Where checkpoints go.
    """
    module = loaded(text, folder)
    return _RUNNERS[framework](module, folder, module.total_steps // 2)


def _weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def _loss(module: Any, model: torch.nn.Module, batches: Any) -> float:
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        losses = [float(module.loss_of(model, x.to(dtype) if x.is_floating_point() else x, y)) for x, y in batches]
    return sum(losses) / len(losses)


def _loop(module: Any, folder: Path, half: int) -> Ran:
    """Run a loop that saves itself: plain PyTorch, or Accelerate."""
    before = _loss(module, *module.stand_in())  # of a model of its own: bitsandbytes settles on the first pass's dtype
    model, batches = module.stand_in()
    module.save_to = str(folder / "whole")
    with watched() as rates:
        module.train(model, batches)
    after, weights = _loss(module, model, batches), _weights(model)

    module.save_to = str(folder / "half")
    module.train(*module.stand_in(), steps=half)
    model, batches = module.stand_in()
    for p in model.parameters():  # nothing but the checkpoint brings the weights back
        if p.requires_grad:
            p.data.add_(1)
    module.train(model, batches, checkpoint=module.save_to)
    return Ran(before, after, [*rates.values()], weights, _weights(model))


def _accelerate(module: Any, folder: Path, half: int) -> Ran:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    return _loop(module, folder, half)


class Resumable(torch.utils.data.DataLoader):  # type: ignore[misc]
    """Batches that go on where a checkpoint left them, as Lightning asks of a loader."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in itertools.islice(super().__iter__(), self.seen, None):
            self.seen += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def _lightning(module: Any, folder: Path, half: int) -> Ran:
    from lightning.pytorch.callbacks import ModelCheckpoint

    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False,
                             "default_root_dir": folder, "accelerator": "cpu"}  # fmt: skip

    def fresh() -> tuple[torch.nn.Module, Resumable]:
        model, batches = module.stand_in()
        return model, Resumable(batches.dataset, batch_size=batches.batch_size)

    model, batches = fresh()
    optimizers, _ = module.configure(model)
    steps = half * (len(optimizers) if isinstance(optimizers, list) else 1)  # Lightning counts those of each
    before = _loss(module, *module.stand_in())
    keep = ModelCheckpoint(folder, "half", every_n_train_steps=steps, save_top_k=1, monitor="step", mode="min")
    with watched() as rates:
        module.train(model, batches, callbacks=[keep], **quiet)
    after, weights = _loss(module, model, module.stand_in()[1]), _weights(model)
    model, batches = fresh()
    try:
        module.train(model, batches, checkpoint=folder / "half.ckpt", enable_checkpointing=False, **quiet)
    except RuntimeError as error:  # torchao's states, as Lightning loads them
        if "map_location" not in str(error):
            raise
        return Ran(before, after, [*rates.values()], weights, None)
    return Ran(before, after, [*rates.values()], weights, _weights(model))


def _trainer(module: Any, folder: Path, half: int) -> Ran:
    quiet: dict[str, Any] = {"disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
                             "logging_strategy": "no", "save_steps": half}  # fmt: skip
    model, rows = module.stand_in()

    def loss(model: torch.nn.Module) -> float:
        tokens = torch.stack([row["input_ids"] for row in rows])
        with torch.no_grad():
            return float(model(input_ids=tokens, labels=tokens).loss)

    before = loss(module.stand_in()[0])
    with watched() as rates:
        module.train(model, rows, folder=str(folder / "trained"), **quiet)
    after, weights = loss(model), _weights(model)
    model, _ = module.stand_in()
    module.train(
        model, rows, folder=str(folder / "again"), checkpoint=str(folder / "trained" / f"checkpoint-{half}"), **quiet
    )
    return Ran(before, after, [*rates.values()], weights, _weights(model))


_RUNNERS = {"python": _loop, "accelerate": _accelerate, "lightning": _lightning, "hf": _trainer}


# -- the page that says what was seen --------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "frameworks.md"
RUNS = "runs"
PYTHON = tuple(_RUNNERS)


def page_cells() -> dict[tuple[str, str], str]:
    """Return what the page says of each optimizer in each framework."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    heads = [cell.strip("`") for cell in rows[0][1:]]
    return {(row[0].strip("`"), head): cell for row in rows[2:] for head, cell in zip(heads, row[1:], strict=True)}


def seen(rules: CompiledRules, framework: str, name: str, folder: Path) -> str:
    """Run one optimizer in one framework, or write its configuration, and say what came of it."""
    from optadvise.codegen.write import write_code

    answers = {"model": "transformer", "optimizer": name}
    code = write_code(rules, advise(rules, {"steps": STEPS, **answers}), framework)
    if code.optimizer != name:
        return f"no; {code.optimizer}"
    if framework not in _RUNNERS:
        made = rules.catalog.optimizer(name).implementations[0]
        if rules.catalog.frameworks[framework].any_class and not importable(made):
            return f"not here: {made.package}"
        by_name = make_plan(rules, advise(rules, answers), rules.catalog.frameworks[framework]).named_optimizer
        client = rules.catalog.frameworks[framework].client
        return "writes, passed from code" if client and by_name is None else "writes"
    taken, text = advised(rules, framework, answers)
    if not importable(taken.implementation):
        return f"not here: {taken.implementation.package}"
    ran = run(framework, text, folder)
    assert ran.after < ran.before
    if ran.again is None:
        return f"{RUNS}, not continued"
    assert all(torch.equal(a, b) for a, b in zip(ran.weights, ran.again, strict=True))
    return RUNS


def main() -> None:
    """Write the page anew."""
    import os
    import tempfile

    from optadvise.codegen import FRAMEWORKS
    from optadvise.rulebase.catalog import load

    rules = CompiledRules(load())
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    lines = [f"| | {' | '.join(f'`{name}`' for name in FRAMEWORKS)} |", "|---" * (len(FRAMEWORKS) + 1) + "|"]
    for name in rules.catalog.optimizer_ids:
        cells = []
        for framework in FRAMEWORKS:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(seen(rules, framework, name, Path(folder)))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- seen -->\n")
    after = rest.partition("<!-- end -->")[2]
    PAGE.write_text(f"{before}<!-- seen -->\n{chr(10).join(lines)}\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
