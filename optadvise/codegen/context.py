"""Records that the templates of Python programs insert, built from a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from optadvise.codegen.notes import list_notes
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import check_path
from optadvise.core.cards import NOT_HIDDEN, Implementation, Value
from optadvise.core.records import Recommendation, ScheduleAdvice, Situation
from optadvise.core.version import __version__
from optadvise.rulebase.constructor import argument_name, convert_lists

_FIRST_BATCHES = 20  # micro-batches of the first run, which is two steps at least
_PHASE_VARIABLES = {"constant": "plateau", "linear": "fall"}


class Construction(Struct, frozen=True):
    """Constructor call of one optimizer."""

    path: str  # import path of its class
    kwargs: Mapping[str, object]
    cpu_kwargs: Mapping[str, object]  # passed where there is no GPU
    decay: str | None  # the constructor's name for weight decay; None if it has none
    needs_train_mode: bool


class Phase(Struct, frozen=True):
    """A part of the schedule: one scheduler of PyTorch."""

    variable: str
    shape: str
    path: str
    kwargs: Mapping[str, object]


class Sequence(Struct, frozen=True):
    """The scheduler that runs several phases one after another."""

    path: str
    milestones: Value  # steps at which the next phase begins


class Adapters(Struct, frozen=True):
    """Adapters that are trained on a frozen model."""

    rank: int
    targets: str | list[str]  # modules that have one; `all-linear` for all
    quantized: bool  # the frozen model has 4-bit weights


class Program(Struct, frozen=True, kw_only=True):
    """Parts of every program."""

    header: list[str]  # sentences of the comment at its top
    modules: list[str]  # of the classes that it constructs, and torch
    optimizer: Construction
    companion: Construction | None  # of the parameters that `optimizer` does not take
    has_several_optimizers: bool  # it holds lists of optimizers and schedules
    gradient_release: bool
    names_outside: tuple[str, ...]  # parts of the names of matrices that a companion takes
    phases: list[Phase]
    sequence: Sequence | None
    adapters: Adapters | None
    precision: str
    has_half_weights: bool
    clip: float | None
    total_steps: int
    micro_batch: int | None
    accumulation: int  # micro-batches of an optimizer step
    first_steps: int  # steps of the first run, over the stand-in


def build_program(plan: Plan, *, modules: Iterable[str] = (), fused: bool = True, from_class: bool = True) -> Program:
    """Return what a program inserts.

    Args:
        modules: What the program imports besides the modules of the classes that it constructs.
        fused: The framework can run a step that is one kernel.
        from_class: The optimizer is constructed from its class, and not by the framework from a name.

    Raises:
        RuleFileError: An import path of the rules is not one.
    """
    advice, run = plan.advice, plan.advice.situation
    adapters = _build_adapters(run)
    phases, sequence = _build_schedule(advice.schedule)
    is_fused = fused and (advice.companion is None or plan.gradient_release)
    kwargs = {**advice.kwargs, **(advice.fused if is_fused else {})}
    return Program(
        header=list(list_header(plan)),
        modules=sorted({*modules, *_list_modules(advice, from_class)}),
        optimizer=_build_construction(advice.implementation, kwargs),
        companion=None
        if advice.companion is None
        else _build_construction(advice.companion.implementation, advice.companion.kwargs),
        has_several_optimizers=plan.gradient_release or advice.companion is not None,
        gradient_release=plan.gradient_release,
        names_outside=NOT_HIDDEN,
        phases=phases,
        sequence=sequence,
        adapters=adapters,
        precision=run.precision,
        has_half_weights=run.precision == "bf16" and run.method != "qlora",
        clip=plan.clip,
        total_steps=run.steps,
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        first_steps=max(2, _FIRST_BATCHES // plan.accumulation),
    )


def list_header(plan: Plan) -> Iterator[str]:
    """Yield sentences that say what a text is, why, what it needs and what it could not express."""
    advice = plan.advice
    name, schedule = advice.optimizer.name, advice.schedule.id
    yield f"{name} under {schedule}, by optadvise {__version__} (rules {advice.fingerprint})."
    for entry in advice.trace:
        yield f"{entry.rule}: {entry.because}"
    packages = {"torch", plan.framework.package, advice.implementation.package}
    packages |= {"peft"} if advice.situation.method != "full" else set()
    packages |= {advice.companion.implementation.package} if advice.companion is not None else set()
    yield f"Needs: pip install {' '.join(sorted(name for name in packages if name))}"
    for note in list_notes(plan):
        yield f"Note: {note}"


def _list_modules(advice: Recommendation, from_class: bool) -> set[str]:
    paths = [advice.schedule.path, *(phase.path for phase in advice.schedule.phases)]
    paths += [advice.implementation.path] if from_class else []
    paths += [advice.companion.implementation.path] if advice.companion is not None else []
    modules = {check_path(path, advice.optimizer.at).rpartition(".")[0] for path in paths}
    return {"torch", *(module for module in modules if not module.startswith("torch."))}


def _build_construction(implementation: Implementation, kwargs: Mapping[str, Value]) -> Construction:
    decay = argument_name(implementation, "weight_decay")
    return Construction(
        path=implementation.path,
        kwargs=convert_lists(kwargs),
        cpu_kwargs=convert_lists(implementation.cpu_kwargs),
        decay=decay if decay in kwargs else None,
        needs_train_mode=implementation.needs_train_mode,
    )


def _build_schedule(schedule: ScheduleAdvice) -> tuple[list[Phase], Sequence | None]:
    """Return the phases of the schedule, and what runs them where there are several."""
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


def _build_adapters(run: Situation) -> Adapters | None:
    if run.method == "full":
        return None
    targets = "all-linear" if run.lora_targets == "all" else [f"{name}_proj" for name in run.lora_targets.split(",")]
    return Adapters(rank=run.lora_rank or 16, targets=targets, quantized=run.method == "qlora")
