"""Template variables of generated Python programs, built from a plan."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from optadvise.codegen.notes import list_notes
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import Expression, check_path
from optadvise.core.advice_records import Recommendation, ScheduleAdvice
from optadvise.core.cards import NOT_HIDDEN, Implementation, Value
from optadvise.core.framework_cards import list_kinds
from optadvise.core.version import __version__
from optadvise.rulebase.constructor import argument_name, convert_lists

_EXAMPLE_MICRO_BATCHES = 20  # of the short test run, which has at least two steps
# Packages of programs that train adapters, by method: adapters, the model of the example, and the quantized base model.
_ADAPTER_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "full": (),
    "lora": ("peft", "transformers"),
    "qlora": ("accelerate", "bitsandbytes", "peft", "transformers"),
}
_PHASE_VARIABLES = {"constant": "constant", "linear": "decay"}


class Construction(Struct, frozen=True):
    """Constructor call of one optimizer."""

    path: str  # import path of the class
    kwargs: Mapping[str, object]
    cpu_kwargs: Mapping[str, object]  # additional arguments on a machine without a GPU
    decay: str | None  # name of the weight decay argument; None if weight decay is not passed
    needs_train_mode: bool
    tensors: str | None  # `matrix` or `table`, if the optimizer supports only these
    sparse_only: bool  # rejects dense gradients


class Phase(Struct, frozen=True):
    """One phase of the schedule: a PyTorch scheduler."""

    variable: str
    shape: str
    path: str
    kwargs: Mapping[str, object]


class Sequence(Struct, frozen=True):
    """Scheduler that runs several phases in sequence."""

    path: str
    milestones: object  # list of the first steps of the second and later phases


class Adapters(Struct, frozen=True):
    """LoRA adapters."""

    rank: int
    alpha: int | float
    dropout: float
    targets: str | list[str]  # names of the adapted modules, or `all-linear`
    quantized: bool  # the base model has 4-bit weights


class Program(Struct, frozen=True, kw_only=True):
    """Template variables of every program."""

    header: list[str]  # sentences of the comment at the top
    modules: list[str]  # modules to import
    checkpoint_classes: list[str]  # classes in the optimizer state that torch.load must be allowed to read
    optimizer: Construction
    companion: Construction | None  # optimizer of the parameters that `optimizer` does not train
    has_several_optimizers: bool  # the program has lists of optimizers and schedulers
    gradient_release: bool
    names_outside: tuple[str, ...]  # name parts of matrices that the companion trains
    phases: list[Phase]
    sequence: Sequence | None
    adapters: Adapters | None
    precision: str
    has_half_weights: bool
    recomputes: bool  # activation checkpointing
    clip: float | None
    ema_decay: float | None  # of the average of the weights
    total_steps: int
    micro_batch: int | None
    accumulation: int  # micro-batches per optimizer step
    example_steps: int  # steps of the short test run


def build_program(plan: Plan, *, modules: Iterable[str] = (), fused: bool = True, from_class: bool = True) -> Program:
    """Return the template variables of a program.

    Args:
        modules: Modules to import in addition to those of the optimizer and scheduler classes.
        fused: The framework supports fused optimizer steps.
        from_class: The program constructs the optimizer from its class, not from a name of the framework.

    Raises:
        RuleFileError: The rules have an invalid import path.
    """
    advice, run = plan.advice, plan.advice.situation
    adapters = build_adapters(plan)
    phases, sequence = _build_schedule(advice.schedule)
    kwargs = {**advice.kwargs, **(advice.fused if fused else {})}
    return Program(
        header=list(list_header(plan)),
        modules=sorted({*modules, *_list_modules(advice, from_class)}),
        checkpoint_classes=_list_checkpoint_classes(advice),
        optimizer=_build_construction(advice.implementation, kwargs),
        companion=_build_companion(advice, fused=fused),
        has_several_optimizers=plan.gradient_release or advice.companion is not None,
        gradient_release=plan.gradient_release,
        names_outside=NOT_HIDDEN,
        phases=phases,
        sequence=sequence,
        adapters=adapters,
        precision=run.precision,
        has_half_weights=run.precision == "bf16" and run.method != "qlora",
        recomputes=run.checkpointing != "none",
        clip=plan.clip,
        ema_decay=plan.ema_decay,
        total_steps=run.steps,
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        example_steps=max(2, _EXAMPLE_MICRO_BATCHES // plan.accumulation),
    )


def list_header(plan: Plan) -> Iterator[str]:
    """Yield the sentences at the top of a file: the recommendation, its reasons, required packages and notes."""
    advice = plan.advice
    name, schedule = advice.optimizer.name, advice.schedule.id
    yield f"{name} with schedule {schedule}, generated by optadvise {__version__} (rules {advice.fingerprint})."
    for entry in advice.trace:
        yield f"Reason: {entry.because} ({entry.rule})"
    yield f"Requirements: pip install {' '.join(map(shlex.quote, _list_requirements(plan)))}"
    for note in list_notes(plan):
        yield f"Note: {note}"


def _list_requirements(plan: Plan) -> list[str]:
    """Return what pip must install for a program or file, such as `torch>=2.9`, in alphabetical order."""
    framework, advice = plan.framework, plan.advice
    names = {"torch", framework.package, *framework.requires}
    names |= set(_ADAPTER_PACKAGES[advice.situation.method]) if framework.output_format == "python" else set()
    kinds = (*list_kinds(advice.situation), advice.situation.loss)
    names |= {name for kind in kinds for name in framework.packages.get(kind, ())}
    requirements = {name: name for name in names if name}
    implementations = [advice.implementation]
    implementations += [advice.companion.implementation] if advice.companion is not None else []
    for implementation in implementations:
        package, minimum = implementation.package, implementation.min_version
        if package:
            requirements[package] = f"{package}>={minimum}" if minimum else requirements.get(package, package)
    return sorted(requirements.values())


def _list_modules(advice: Recommendation, from_class: bool) -> set[str]:
    paths = [advice.schedule.path, *(phase.path for phase in advice.schedule.phases)]
    paths += [advice.implementation.path] if from_class else []
    paths += [advice.companion.implementation.path] if advice.companion is not None else []
    paths += _list_checkpoint_classes(advice)
    modules = {check_path(path, advice.optimizer.at).rpartition(".")[0] for path in paths}
    return {"torch", *(module for module in modules if not module.startswith("torch."))}


def _list_checkpoint_classes(advice: Recommendation) -> list[str]:
    companion = advice.companion.implementation.checkpoint_classes if advice.companion is not None else ()
    return [*advice.implementation.checkpoint_classes, *companion]


def _build_companion(advice: Recommendation, *, fused: bool) -> Construction | None:
    companion = advice.companion
    if companion is None:
        return None
    kwargs = {**companion.kwargs, **(advice.fused_companion if fused else {})}
    return _build_construction(companion.implementation, kwargs)


def _build_construction(implementation: Implementation, kwargs: Mapping[str, Value]) -> Construction:
    decay = argument_name(implementation, "weight_decay")
    return Construction(
        path=implementation.path,
        kwargs={**convert_lists(kwargs), **dict.fromkeys(implementation.step_arguments, Expression("total_steps"))},
        cpu_kwargs=convert_lists(implementation.cpu_kwargs),
        decay=decay if decay in kwargs else None,
        needs_train_mode=implementation.needs_train_mode,
        tensors=implementation.tensors,
        sparse_only=implementation.gradients == "sparse",
    )


def _build_schedule(schedule: ScheduleAdvice) -> tuple[list[Phase], Sequence | None]:
    """Return the phases of the schedule, and the scheduler that runs them in sequence; None for a single phase."""
    phases: list[Phase] = []
    for phase in schedule.phases:
        shape, kwargs = phase.shape, phase.kwargs
        if shape == "constant" and schedule.phases[1:]:
            kwargs = {**kwargs, "total_iters": 0}
        variable = _PHASE_VARIABLES.get(shape, shape.replace("-", "_")) if phases else "warmup"
        if variable in {other.variable for other in phases}:
            variable += f"_{len(phases)}"
        phases.append(Phase(variable=variable, shape=shape, path=phase.path, kwargs=kwargs))
    return phases, Sequence(schedule.path, schedule.kwargs["milestones"]) if phases[1:] else None


def build_adapters(plan: Plan) -> Adapters | None:
    """Return the adapters of a run; None if it trains all weights."""
    run, numbers = plan.advice.situation, plan.hyperparameters
    if run.method == "full":
        return None
    alpha, dropout = float(str(numbers["lora_alpha"])), float(str(numbers["lora_dropout"]))
    return Adapters(
        rank=run.lora_rank or 16,
        alpha=int(alpha) if alpha.is_integer() else alpha,  # the type of `lora_alpha` in the frameworks
        dropout=dropout,
        targets="all-linear" if run.lora_targets == "all" else [f"{name}_proj" for name in run.lora_targets.split(",")],
        quantized=run.method == "qlora",
    )
