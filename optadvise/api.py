"""The commands as functions: the same options, the same answers, the same errors.

Example:
    >>> import optadvise
    >>> advice = optadvise.recommend(model="transformer", vram="24GB", params="1B")
    >>> advice.optimizer.id, advice.schedule.id
    ('adamw', 'warmup-cosine')
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from optadvise import answers, ruleset
from optadvise.advisor import Advisor
from optadvise.domain import MemoryAnswer, Recommendation
from optadvise.errors import InputError, nearest
from optadvise.fitting import Fitter

if TYPE_CHECKING:
    from typing_extensions import Unpack

Count = str | int | float  # 256, 7e9, "7B", "8K"


class Run(TypedDict, total=False):
    """What is known of a training run: the options of `optadvise recommend`, whose help describes each."""

    model: str  # transformer, vit, cnn, rnn, mlp, gnn, gan, diffusion, rl, recsys
    task: str  # pretrain, finetune
    method: str  # full, lora, qlora
    lora_rank: Count
    lora_targets: str
    vram: str | int  # of one GPU: "24GB", or bytes
    gpu: str
    gpus: Count
    batch_size: Count  # samples per optimizer step, over all GPUs and accumulation
    micro_batch: Count
    precision: str  # fp32, amp-bf16, amp-fp16, bf16
    shard: str  # none, zero1, zero2, zero3
    stability: str  # stable, spikes
    tuning: str  # low, high
    priority: str  # balanced, accuracy, memory, speed
    sparse_gradients: bool
    steps: Count  # optimizer steps of the whole run
    optimizer: str  # take this one instead of choosing
    params: Count
    arch: str
    hf_config: str | PathLike[str]
    hidden: Count
    layers: Count
    heads: Count
    kv_heads: Count
    ffn: Count
    vocab: Count
    seq_len: Count
    image_size: Count
    checkpointing: str  # none, selective, full
    attention: str  # flash, eager
    loss: str  # whole, chunked
    gradient_release: bool
    clipping: bool
    offload: bool
    rules: Sequence[str | PathLike[str]]  # folders of further rules


class Advice(Recommendation):
    """A recommendation that can be built, written as code and as data. Its fields are those of `Recommendation`."""

    advisor: Advisor

    def build(self, model: Any, *, fused: bool = True) -> tuple[Any, Any]:
        """Return the optimizer over a model's parameters, and its schedule. Imports torch.

        What is built is what `optadvise bench` measures and what `code("python")` writes: weight decay on matrices
        alone, one kernel a step where there is one. Step the schedule once after each step of the optimizer.

        Args:
            model: A `torch.nn.Module`; what needs no gradient is left out.
            fused: Step in one kernel where the implementation has one.

        Returns:
            The optimizer and the schedule; two lists of two where the advice is a pair, as with Muon, which takes
            hidden matrices only.

        Raises:
            CannotRunHereError: The implementation's package is not installed.
            InputError: The advice is to step weights while gradients are made, which is more than an optimizer.

        Example:
            >>> import torch
            >>> optimizer, schedule = recommend(model="mlp").build(torch.nn.Linear(4, 2))
            >>> len(optimizer.param_groups)
            2
        """
        from optadvise.bench import factory, plan

        if self.situation.gradient_release:
            raise InputError('build: gradient release is a training loop of its own; code("python") writes it')
        arm = plan.arm_of(self, fused=fused)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        built = factory.optimizers(arm, named, model)
        if arm.train_mode:
            built[0].train()
        schedules = [factory.scheduler(arm, optimizer) for optimizer in built]
        return (built[0], schedules[0]) if self.companion is None else (built, schedules)

    def code(self, framework: str = "python") -> str:
        """Return a program or a configuration; what it cannot express is said in its comments.

        Args:
            framework: python, hf, accelerate, lightning, torchtune, axolotl or deepspeed.

        Raises:
            InputError: There is no such framework.
        """
        from optadvise.codegen.write import write

        return write(self.advisor, self, framework).text

    def data(self) -> dict[str, Any]:
        """Return the object that `optadvise recommend --json` prints, for `json.dump` and for `bench`."""
        from optadvise.render.json import recommendation

        found: dict[str, Any] = json.loads(recommendation(self, self.advisor.remedies(self)))
        return found


class Estimate(MemoryAnswer):
    """Will it fit? Its fields are those of `MemoryAnswer`."""

    advisor: Advisor

    def data(self) -> dict[str, Any]:
        """Return the object that `optadvise estimate --json` prints."""
        from optadvise.render.json import estimate as as_json

        found: dict[str, Any] = json.loads(as_json(self, self.advisor.catalog))
        return found


def recommend(**run: Unpack[Run]) -> Advice:
    """Recommend an optimizer and a schedule, with numbers, reasons and sources. Never imports torch.

    Args:
        **run: What is known of the run; what is not said is assumed, and listed in `situation.assumed`.

    Raises:
        InputError: A value is not accepted, or two contradict each other.
        RuleFileError: A folder of further rules is invalid.

    Example:
        >>> recommend(model="cnn", batch_size=16384).optimizer.name
        'LAMB'
    """
    advisor, said = _read(run, "recommend")
    advice = Advice(*advisor.recommend(advisor.situation(said)))
    advice.advisor = advisor
    return advice


def estimate(**run: Unpack[Run]) -> Estimate:
    """Tell whether a run fits a GPU, and what would make it fit. Never imports torch.

    Args:
        **run: What is known of the run, its size among it.

    Raises:
        InputError: A value is not accepted, two contradict each other, or nothing says how large the network is.
        RuleFileError: A folder of further rules is invalid.

    Example:
        >>> answer = estimate(params="7B", gpu="rtx 4090", task="finetune")
        >>> answer.memory.fits
        False
    """
    advisor, said = _read(run, "estimate")
    situation = advisor.situation(said)
    answers.need_size(situation)
    found = Estimate(*Fitter(advisor).answer(situation))
    found.advisor = advisor
    return found


def bench(
    *optimizers: str,
    advice: Advice | Mapping[str, Any] | None = None,
    rules: Sequence[str | PathLike[str]] = (),
    **options: Any,
) -> dict[str, Any]:
    """Measure what optimizers cost here, each in a process of its own, against a control.

    Args:
        *optimizers: Names in any spelling.
        advice: Run exactly this recommendation instead.
        rules: Folders of further rules.
        **options: Those of `optadvise bench`: workload, model_size, params, batch_size, seq_len, dtype, device, steps,
            rounds, seed, threads, compile, optimizer_only, control, implementation, require, timeout.

    Returns:
        The object that `optadvise bench --json -` prints.

    Raises:
        InputError: A value is not accepted.
        CannotRunHereError: There is no such device, or torch is not installed.
    """
    import inspect

    from optadvise.bench import request

    known = [p.name for p in inspect.signature(request.make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise InputError(f"bench: no option {name!r}; {nearest(name, known)}")
    counts = ("params", "batch_size", "seq_len", "steps", "rounds", "threads")
    told = {name: _typed(name, value) if name in counts else value for name, value in options.items()}
    data = advice.data() if isinstance(advice, Advice) else advice
    advisor = ruleset.advisor([Path(folder) for folder in rules])
    return request.measure(request.make(advisor, list(optimizers), data, **told))


def _read(run: Mapping[str, Any], function: str) -> tuple[Advisor, dict[str, Any]]:
    """Return an advisor over the rules that count, and the facts that were stated."""
    for name in run:
        if name not in Run.__annotations__:
            raise InputError(f"{function}: no option {name!r}; {nearest(name, Run.__annotations__)}")
    advisor = ruleset.advisor([Path(folder) for folder in run.get("rules", ())])
    typed = {name: _typed(name, value) for name, value in run.items() if name != "rules"}
    return advisor, answers.read(advisor.catalog, typed)


def _typed(name: str, value: Any) -> Any:
    """Return a value as it would be typed: numbers as their digits, memory in bytes."""
    if isinstance(value, PathLike):
        return Path(value)
    if isinstance(value, float) and value == int(value):
        value = int(value)
    if isinstance(value, (bool, str)) or value is None:
        return Path(value) if name == "hf_config" and isinstance(value, str) else value
    return f"{value}B" if name == "vram" else str(value)
