"""A plain PyTorch training loop, for one GPU or a CPU."""

from __future__ import annotations

from optadvise.codegen import parts
from optadvise.codegen.parts import Lines, each
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import literal

_AUTOCAST = {"amp-bf16": "torch.bfloat16", "amp-fp16": "torch.float16"}


def program(plan: Plan) -> str:
    """Return the text of a program that trains as it stands, and can be imported for its functions.

    Args:
        plan: What to write.
    """
    imports = ["import itertools", "import sys", *parts.adapter_imports(plan, language=parts.adapted(plan))]
    blocks = [
        _settings(plan),
        *([parts.adapters(plan)] if parts.adapted(plan) else []),
        parts.configure(plan),
        parts.schedule(plan),
        _train(plan),
        _save(plan),
        _resume(plan),
        *parts.stand_in(plan),
    ]
    start = ["train(*stand_in(), checkpoint=sys.argv[1] if len(sys.argv) > 1 else None)"]
    return parts.whole(plan, imports, blocks, start)


def _settings(plan: Plan) -> Lines:
    lines = [
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        f"total_steps = {literal(plan.quantities['total_steps'])}",
    ]
    if plan.accumulate > 1:
        lines.append(f"accumulate = {plan.accumulate!r}  # passes that make one step")
    return [*lines, "save_every = 1000  # steps", 'save_to = "checkpoint.pt"']


def _scaled(plan: Plan) -> bool:
    return plan.advice.situation.precision == "amp-fp16"


def _train(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    state = f"model, optimizer{s}, scheduler{s}" + (", scaler" if _scaled(plan) else "")
    lines = [
        "def train(model, batches, checkpoint=None):",
        '    """Train over batches; the file that save() wrote continues its run."""',
        "    model = model.to(device)",
        f"    optimizer{s}, scheduler{s} = configure(model)",
    ]
    if _scaled(plan):
        lines.append('    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")')
    lines.append(f"    done = 0 if checkpoint is None else resume(checkpoint, {state})")
    lines.append("    model.train()")
    if plan.accumulate > 1:
        lines += [
            "    passes = itertools.islice(batches, done * accumulate, None)  # what was seen is passed over",
            "    for step in range(done, total_steps):",
            "        group = list(itertools.islice(passes, accumulate))",
            "        if not group:",
            "            break",
            "        for x, y in group:",
            *_pass(plan, 12),
        ]
    else:
        lines += [
            "    # What a continued run has seen is passed over.",
            "    for step, (x, y) in enumerate(itertools.islice(batches, done, total_steps), done):",
            *_pass(plan, 8),
        ]
    lines += _step(plan)
    told = 'print(f"step {step}: loss {loss.item():.4f}, lr {rate:.3g}")'
    return [
        *lines,
        "        if step % 10 == 0:",
        f"            {told}",
        "        if (step + 1) % save_every == 0:",
        f"            save(save_to, step + 1, {state})",
    ]


def _pass(plan: Plan, indent: int) -> Lines:
    blank, cast = " " * indent, _AUTOCAST.get(plan.advice.situation.precision)
    lines = [f"{blank}x, y = x.to(device), y.to(device)"]
    if cast:
        lines += [f"{blank}with torch.autocast(device, dtype={cast}):", f"{blank}    loss = loss_of(model, x, y)"]
    else:
        lines.append(f"{blank}loss = loss_of(model, x, y)")
    part = "loss / accumulate" if plan.accumulate > 1 else "loss"
    if _scaled(plan):
        return [*lines, f"{blank}scaler.scale({part}).backward()"]
    backward = f"{blank}({part}).backward()" if plan.accumulate > 1 else f"{blank}loss.backward()"
    return [*lines, backward + ("  # steps every weight as it goes" if plan.release else "")]


def _step(plan: Plan) -> Lines:
    first = "schedulers[0]" if parts.several(plan) else "scheduler"
    lines = [f"        rate = {first}.get_last_lr()[0]"]
    if plan.clip is not None:
        if _scaled(plan):
            lines += each(plan, "scaler.unscale_(optimizer)  # the true gradient is clipped", 8)
        lines.append(f"        torch.nn.utils.clip_grad_norm_(model.parameters(), {literal(plan.clip)})")
    if not plan.release:
        lines += each(plan, "scaler.step(optimizer)" if _scaled(plan) else "optimizer.step()", 8)
        lines += ["        scaler.update()"] if _scaled(plan) else []
    lines += each(plan, "scheduler.step()  # after the optimizer, once a step", 8)
    return lines + ([] if plan.release else each(plan, "optimizer.zero_grad(set_to_none=True)", 8))


def _save(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    named = ["optimizer", "scheduler"]
    states = [
        f'"{name}": [{name}.state_dict() for {name} in {name}s],' if s else f'"{name}": {name}.state_dict(),'
        for name in named
    ]
    weights = "{n: p for n, p in model.named_parameters() if p.requires_grad}"
    scaler = ", scaler" if _scaled(plan) else ""
    return [
        f"def save(file, step, model, optimizer{s}, scheduler{s}{scaler}):",
        '    """Write all that a run needs to go on exactly."""',
        "    state = {",
        '        "step": step,',
        f'        "model": {weights if parts.adapted(plan) else "model.state_dict()"},',
        *(f"        {state}" for state in states),
        *(['        "scaler": scaler.state_dict(),'] if scaler else []),
        '        "random": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],',
        "    }",
        "    torch.save(state, file)",
    ]


def _resume(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    scaler = ", scaler" if _scaled(plan) else ""
    strict = ", strict=False" if parts.adapted(plan) else ""
    lines = [
        f"def resume(file, model, optimizer{s}, scheduler{s}{scaler}):",
        '    """Read what save() wrote and return how many steps are done."""',
        '    state = torch.load(file, map_location="cpu")',
        f'    model.load_state_dict(state["model"]{strict})',
    ]
    for name in ("optimizer", "scheduler"):
        if s:
            lines += [
                f'    for {name}, saved in zip({name}s, state["{name}"]):',
                f"        {name}.load_state_dict(saved)",
            ]
        else:
            lines.append(f'    {name}.load_state_dict(state["{name}"])')
    if scaler:
        lines.append('    scaler.load_state_dict(state["scaler"])')
    return [
        *lines,
        '    torch.set_rng_state(state["random"][0])',
        '    torch.cuda.set_rng_state_all(state["random"][1:])',
        '    return state["step"]',
    ]
