"""Parameter groups, optimizer and schedule for a training loop that exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from optadvise.codegen.context import Program, Sequence, build_program
from optadvise.codegen.plan import Plan
from optadvise.codegen.templating import render
from optadvise.codegen.values import Expression, format_keywords

# Counts of steps that the schedule reads, and are computed from `total_steps`.
_COUNTS = ("warmup_steps", "decay_steps")


class SnippetOptions(Struct, frozen=True):
    """Template variables of a snippet."""

    step_counts: Mapping[str, object]  # variables that the schedule reads


def write_snippet(plan: Plan) -> str:
    """Return the parameter groups, the optimizer and the schedule; `model` and `total_steps` are the user's."""
    program = build_program(plan)
    counts = _count_steps(plan)
    variables = {"total_steps": Expression("total_steps"), "milestones": _list_milestones(plan)}
    variables |= {name: Expression(name) for name in counts}
    phases = [
        replace(phase, kwargs={**phase.kwargs, **_name_steps(card.kwargs, variables)})
        for phase, card in zip(program.phases, plan.scheduler.phases, strict=True)
    ]
    ends = [Expression("warmup_steps"), Expression("total_steps - decay_steps")][: len(phases) - 1]
    sequence = None if program.sequence is None else Sequence(path=program.sequence.path, milestones=ends)
    program = replace(program, header=list(_list_header(plan, program)), phases=phases, sequence=sequence)
    return render("snippet.py.jinja", program, SnippetOptions(counts))


def _list_header(plan: Plan, program: Program) -> Iterator[str]:
    """Yield the recommendation, required packages besides torch, notes, and how to run the training."""
    recommendation, *others = program.header
    yield recommendation
    yield from (line for line in others if not line.startswith("Reason: ") and not line.endswith(" install torch"))
    run = [plan.advice.situation.precision]
    run += [] if plan.micro_batch is None else [f"micro-batch {plan.micro_batch}"]
    run += [f"{program.accumulation} micro-batches per step"] * (program.accumulation > 1)
    yield f"Run: {', '.join(run)}."
    if program.adapters is not None:
        adapters = {"r": program.adapters.rank, "lora_alpha": program.adapters.alpha,
                    "lora_dropout": program.adapters.dropout, "target_modules": program.adapters.targets}  # fmt: skip
        yield f"Adapters: model = peft.get_peft_model(model, peft.LoraConfig({format_keywords(adapters)}))"


def _count_steps(plan: Plan) -> dict[str, object]:
    """Return the counts of steps that the phases or their ends read, as expressions of `total_steps`."""
    card, fraction = plan.scheduler, plan.hyperparameters.get("warmup_fraction")
    read = {str(value)[1:] for phase in card.phases for value in phase.kwargs.values()}
    read |= {"warmup_steps"} if len(card.phases) > 1 or ("decay_steps" in read and card.warmup) else set()
    length = f"round({card.decay_fraction:g} * total_steps)" if card.decay_fraction else "total_steps - warmup_steps"
    sources = {"warmup_steps": f"max(1, round({float(str(fraction or 0.0)):g} * total_steps))", "decay_steps": length}
    return {name: Expression(sources[name]) for name in _COUNTS if name in read}


def _list_milestones(plan: Plan) -> list[Expression]:
    return [Expression(f"round({fraction:g} * total_steps)") for fraction in plan.scheduler.milestones]


def _name_steps(kwargs: Mapping[str, object], variables: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments that are counts of steps, as variables."""
    names = {name: str(value)[1:] for name, value in kwargs.items() if str(value).startswith("$")}
    return {name: variables[quantity] for name, quantity in names.items() if quantity in variables}
