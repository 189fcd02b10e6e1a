"""The part of a program that makes optimizers over parameter groups, and their schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optadvise.codegen.parts import Lines
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import arguments, call, literal, path, without_gpu
from optadvise.core.records import NOT_HIDDEN, Implementation

_LEGS = {"constant": "plateau", "linear": "fall"}


def configure(plan: Plan, *, fused: bool = True) -> Lines:
    """Return the function that makes the optimizer and its schedule.

    Args:
        plan: What to write.
        fused: The framework can do with a step in one kernel.
    """
    if plan.release:
        return _released(plan)
    if plan.advice.companion is not None:
        return _pair(plan)
    advice = plan.advice
    lines = ["def configure(model):", '    """Return the optimizer and the schedule that were advised."""']
    decay = _decay(advice.implementation, advice.kwargs)
    if decay is None:
        lines.append("    parameters = [p for p in model.parameters() if p.requires_grad]")
    else:
        lines += [
            "    trained = [p for p in model.parameters() if p.requires_grad]",
            "    # Weight decay is for matrices; biases and norms (everything with one axis) get none.",
            "    parameters = [",
            '        {"params": [p for p in trained if p.ndim >= 2]},',
            f'        {{"params": [p for p in trained if p.ndim < 2], "{decay}": 0.0}},',
            "    ]",
        ]
    kwargs = {**advice.kwargs, **(advice.fused if fused else {})}
    given = ["parameters", *arguments(kwargs), *without_gpu(advice.implementation.on_cpu)]
    lines += call(path(advice.implementation.path), given, 4, "optimizer = ")
    if advice.implementation.needs_train_mode:
        lines.append("    optimizer.train()  # and optimizer.eval() before evaluating")
    return [*lines, "    return optimizer, schedule(optimizer)"]


def _pair(plan: Plan) -> Lines:
    advice = plan.advice
    assert advice.companion is not None
    other, kwargs = advice.companion
    return [
        "def configure(model):",
        '    """Return both optimizers and their schedules; one alone where the model has nothing for the other."""',
        *_hidden(),
        "    rest = [p for p in trained if not any(p is h for h in hidden)]",
        "    others = [",
        '        {"params": [p for p in rest if p.ndim >= 2]},',
        '        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},',
        "    ]",
        "    optimizers = []",
        "    if hidden:",
        *_made(advice.implementation, advice.kwargs, "hidden", "optimizers.append(", 8),
        "    if rest:",
        *_made(other, kwargs, "others", "optimizers.append(", 8),
        "    return optimizers, [schedule(optimizer) for optimizer in optimizers]",
    ]


def _hidden() -> Lines:
    return [
        "    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]",
        "    trained = [p for _, p in named]",
        "    # Hidden weight matrices go to the first optimizer; embeddings, heads (by their names), biases and norms",
        "    # to the second.",
        "    tables = {id(w) for m in model.modules() if isinstance(m, torch.nn.Embedding) for w in m.parameters()}",
        f"    outside = {{{', '.join(map(literal, NOT_HIDDEN))}}}",
        "    hidden = [",
        "        p",
        "        for n, p in named",
        '        if p.ndim == 2 and id(p) not in tables and not outside & {*n.replace("_", ".").split(".")}',
        "    ]",
    ]


def _released(plan: Plan) -> Lines:
    """Return a function that gives each weight an optimizer of its own, stepped while gradients are made."""
    advice = plan.advice
    made, kwargs = advice.implementation, {**advice.kwargs, **advice.fused}
    lines = [
        "def configure(model):",
        '    """Give each weight an optimizer that steps it once its gradient is there; return them and schedules."""',
        "    optimizers = {}",
    ]
    if advice.companion is None:
        decay = _decay(made, kwargs)
        group = "[p]" if decay is None else f'[{{"params": [p], **({{}} if p.ndim >= 2 else {{"{decay}": 0.0}})}}]'
        lines += [
            "    for p in model.parameters():",
            "        if not p.requires_grad:",
            "            continue",
            *_made(made, kwargs, group, "optimizers[p] = ", 8),
            *(["        optimizers[p].train()"] if made.needs_train_mode else []),
        ]
    else:
        other, others = advice.companion
        group = '[{"params": [p], **({} if p.ndim >= 2 else {"weight_decay": 0.0})}]'
        lines += [
            *_hidden(),
            "    for p in trained:",
            "        if any(p is h for h in hidden):",
            *_made(made, kwargs, "[p]", "optimizers[p] = ", 12),
            "        else:",
            *_made(other, others, group, "optimizers[p] = ", 12),
        ]
    return [
        *lines,
        "",
        "    def step_at_once(p):",
        "        optimizers[p].step()",
        "        optimizers[p].zero_grad(set_to_none=True)",
        "",
        "    for p in optimizers:",
        "        p.register_post_accumulate_grad_hook(step_at_once)",
        "    return [*optimizers.values()], [schedule(optimizer) for optimizer in optimizers.values()]",
    ]


def _made(made: Implementation, kwargs: Mapping[str, Any], parameters: str, before: str, indent: int) -> Lines:
    """Return the call of an optimizer's class, inside another call where `before` opens one."""
    after = ")" if before.endswith("(") else ""
    return call(path(made.path), [parameters, *arguments(kwargs), *without_gpu(made.on_cpu)], indent, before, after)


def _decay(implementation: Implementation, kwargs: Mapping[str, Any]) -> str | None:
    """Return the constructor's name for weight decay, None where it takes none."""
    name = implementation.arguments.get("weight_decay", "weight_decay")
    return name if name in kwargs else None


def schedule(plan: Plan) -> Lines:
    """Return the function that makes the schedule of an optimizer."""
    advised = plan.advice.schedule
    names: Lines = []
    lines = ["def schedule(optimizer):", '    """Return the schedule, which counts optimizer steps and not epochs."""']
    if not advised.phases[1:]:
        return [*lines, *_leg(*advised.phases[0], "return ", alone=True)]
    for shape, leg, kwargs in advised.phases:
        name = _LEGS.get(shape, shape.replace("-", "_"))
        name = name if name not in names else f"{name}_{len(names)}"
        name = "warmup" if not names else name
        lines += _leg(shape, leg, kwargs, f"{name} = ", alone=False)
        names.append(name)
    ends = literal(advised.kwargs["milestones"]).replace("(", "[").replace(",)", "]").replace(")", "]")
    return [
        *lines,
        *call(path(advised.path), ["optimizer", f"[{', '.join(names)}]", f"milestones={ends}"], 4, "return "),
    ]


def _leg(shape: str, leg: str, kwargs: Mapping[str, Any], before: str, *, alone: bool) -> Lines:
    if shape == "inverse-sqrt":
        factor = "lambda step: min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)"
        return [f"    warmup = max(1, {literal(kwargs['warmup_steps'])})",
                *call(path(leg), ["optimizer", f"lr_lambda={factor}"], 4, before)]  # fmt: skip
    written = [f"{k}={v!r}" if isinstance(v, list) else f"{k}={literal(v)}" for k, v in kwargs.items()]
    arguments(kwargs)  # refuses what is no name
    if shape == "constant" and not alone:
        written.append("total_iters=0")
    return call(path(leg), ["optimizer", *written], 4, before)
