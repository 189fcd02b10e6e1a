"""A plain PyTorch training loop, for one GPU or a CPU."""

from __future__ import annotations

from optadvise.codegen import networks, optimizers, parts
from optadvise.codegen.parts import Lines, each
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import literal

_AUTOCAST = {"amp-bf16": "torch.bfloat16", "amp-fp16": "torch.float16"}


def program(plan: Plan) -> str:
    """Return the text of a program that trains as it stands, and can be imported for its functions.

    Args:
        plan: What to write.
    """
    imports = ["import sys", *(["import itertools"] if plan.accumulate > 1 else []),
               *networks.adapter_imports(plan, language=parts.adapted(plan))]  # fmt: skip
    blocks = [
        _settings(plan),
        *([networks.adapters(plan)] if parts.adapted(plan) else []),
        optimizers.configure(plan),
        optimizers.schedule(plan),
        _train(plan),
        _save(plan),
        _resume(plan),
        *([parts.placed()] if parts.halves(plan) else []),
        *networks.stand_in(plan),
    ]
    start = [
        f"# A first run ends after {parts.first_steps(plan)} steps: leave `steps` out.",
        f"train(*stand_in(), checkpoint=sys.argv[1] if len(sys.argv) > 1 else None, steps={parts.first_steps(plan)})",
    ]
    return parts.whole(plan, imports, blocks, start)


def _settings(plan: Plan) -> Lines:
    lines = ['device = "cuda" if torch.cuda.is_available() else "cpu"', *parts.sizes(plan)]
    if plan.accumulate > 1:
        lines.append(f"accumulate = {plan.accumulate!r}  # passes that make one step")
    return [*lines, "save_every = 1000  # steps; the last is saved too", 'save_to = "checkpoint.pt"']


def _scaled(plan: Plan) -> bool:
    return plan.advice.situation.precision == "amp-fp16"


def _state(plan: Plan) -> str:
    s = "s" if parts.several(plan) else ""
    return f"model, optimizer{s}, scheduler{s}" + (", scaler" if _scaled(plan) else "")


def _train(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    lines = [
        "def train(model, batches, checkpoint=None, steps=total_steps):",
        '    """Train over batches, from the first again when they end; what save() wrote continues its run."""',
        f"    model = model.to(device{', torch.bfloat16' if parts.halves(plan) else ''})",
        f"    optimizer{s}, scheduler{s} = configure(model)",
    ]
    if _scaled(plan):
        lines.append('    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")')
    lines += [
        "    # Steps that are done, batches of this epoch that were seen, and what the epoch shuffles by.",
        "    step, seen, order, random = 0, 0, torch.get_rng_state(), None",
        "    if checkpoint is not None:",
        f"        step, seen, order, random = resume(checkpoint, {_state(plan)})",
        "    model.train()",
        "    while step < steps:",
        "        torch.set_rng_state(order)",
        "        stream = iter(batches)",
        "        for _ in range(seen):",
        "            next(stream)",
        "        if seen:  # a run goes on",
        "            restore(random)",
        *_epoch(plan),
        "        if not seen:",
        '            raise RuntimeError(f"there are no more batches, after {step} of {steps} steps")',
        "        seen, order = 0, torch.get_rng_state()",
    ]
    return lines


def _epoch(plan: Plan) -> Lines:
    """Return the loop over what is left of an epoch."""
    if plan.accumulate > 1:
        lines = [
            "        while len(group := list(itertools.islice(stream, accumulate))) == accumulate:",
            "            seen += accumulate",
            "            for x, y in group:",
            *_pass(plan, 16),
        ]
    else:
        lines = ["        for x, y in stream:", "            seen += 1", *_pass(plan, 12)]
    told = 'print(f"step {step}: loss {loss.item():.4f}, lr {rate:.3g}")'
    return [
        *lines,
        *_step(plan),
        "            if step % 10 == 0:",
        f"                {told}",
        "            step += 1",
        "            if step % save_every == 0 or step == steps:",
        f"                save(save_to, step, seen, order, {_state(plan)})",
        "            if step == steps:",
        "                return",
    ]


def _pass(plan: Plan, indent: int) -> Lines:
    blank, cast = " " * indent, _AUTOCAST.get(plan.advice.situation.precision)
    place = "placed(x, device)" if parts.halves(plan) else "x.to(device)"
    lines = [f"{blank}x, y = {place}, y.to(device)"]
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
    lines = [f"            rate = {first}.get_last_lr()[0]"]
    if plan.clip is not None:
        if _scaled(plan):
            lines += each(plan, "scaler.unscale_(optimizer)  # the true gradient is clipped", 12)
        lines.append(f"            torch.nn.utils.clip_grad_norm_(model.parameters(), {literal(plan.clip)})")
    if _scaled(plan):
        lines += [
            *each(plan, "scaler.step(optimizer)", 12),
            "            scale = scaler.get_scale()",
            "            scaler.update()",
            "            if scaler.get_scale() >= scale:  # a step that overflowed was left out",
            *each(plan, "scheduler.step()", 16),
        ]
    else:
        lines += [] if plan.release else each(plan, "optimizer.step()", 12)
        lines += each(plan, "scheduler.step()  # after the optimizer, once a step", 12)
    return lines + ([] if plan.release else each(plan, "optimizer.zero_grad(set_to_none=True)", 12))


def _save(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    states = [
        f'"{name}": [{name}.state_dict() for {name} in {name}s],' if s else f'"{name}": {name}.state_dict(),'
        for name in ("optimizer", "scheduler")
    ]
    weights = "{n: p for n, p in model.named_parameters() if p.requires_grad}"
    return [
        f"def save(file, step, seen, order, {_state(plan)}):",
        '    """Write all that a run needs to go on as if it had not stopped."""',
        "    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []",
        "    state = {",
        '        "step": step,',
        '        "seen": seen,',
        '        "order": order,',
        '        "random": [torch.get_rng_state(), *cuda],',
        f'        "model": {weights if parts.adapted(plan) else "model.state_dict()"},',
        *(f"        {state}" for state in states),
        *(['        "scaler": scaler.state_dict(),'] if _scaled(plan) else []),
        "    }",
        "    torch.save(state, file)",
    ]


def _resume(plan: Plan) -> Lines:
    s = "s" if parts.several(plan) else ""
    strict = ", strict=False" if parts.adapted(plan) else ""
    lines = [
        f"def resume(file, {_state(plan)}):",
        '    """Read what save() wrote, and return where the run was."""',
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
    if _scaled(plan):
        lines.append('    scaler.load_state_dict(state["scaler"])')
    return [
        *lines,
        '    return state["step"], state["seen"], state["order"], state["random"]',
        "",
        "",
        "def restore(random):",
        '    """Set torch\'s generators: the CPU\'s, and those of as many GPUs as there are."""',
        "    torch.set_rng_state(random[0])",
        "    for number, state in zip(range(torch.cuda.device_count()), random[1:]):",
        "        torch.cuda.set_rng_state(state, number)",
    ]
