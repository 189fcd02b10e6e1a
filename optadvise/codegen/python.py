"""A recommendation as a plain PyTorch training loop that runs as printed.

Every value that comes from a rules file is written through `repr` and every import path is checked to be one, so a
rules file cannot smuggle code into the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from optadvise import __version__
from optadvise.domain import Implementation, Recommendation
from optadvise.errors import RuleFileError

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_AUTOCAST = {"amp-bf16": "torch.bfloat16", "amp-fp16": "torch.float16"}


def plain_torch(advice: Recommendation) -> str:
    """Return the text of a Python file.

    Args:
        advice: The recommendation.

    Raises:
        RuleFileError: An import path or an argument's name in the rules is none.

    Example:
        >>> from optadvise.catalog import load
        >>> from optadvise.advisor import Advisor
        >>> advisor = Advisor(load())
        >>> "torch.optim.AdamW(" in plain_torch(advisor.recommend(advisor.situation({})))
        True
    """
    blocks = [_header(advice), _imports(advice), _stand_in(advice), _groups(advice), _optimizers(advice),
              _schedule(advice), _loop(advice)]  # fmt: skip
    return "\n".join("\n".join(block) + "\n" for block in blocks)


def _header(advice: Recommendation) -> list[str]:
    package = advice.implementation.package
    install = f"# Needs: pip install torch{'' if package in (None, 'torch') else ' ' + str(package)}"
    why = [f"# {entry.rule}: {entry.because}" for entry in advice.trace]
    return [
        f"# {advice.optimizer.name} under {advice.schedule.id}, by optadvise {__version__}"
        f" (rules {advice.fingerprint}).".replace("\n", " "),
        *(line.replace("\n", " ") for line in why),
        install,
    ]


def _imports(advice: Recommendation) -> list[str]:
    paths = [advice.implementation.path, *(path for _, path, _ in advice.schedule.phases), advice.schedule.path]
    if advice.companion is not None:
        paths.append(advice.companion[0].path)
    modules = {"torch"}
    for path in paths:
        if not _PATH.fullmatch(path):
            raise RuleFileError(f"{path!r} is no import path", advice.optimizer.at)
        modules.add(path.rsplit(".", 1)[0])
    return [f"import {module}" for module in sorted(modules)]


def _stand_in(advice: Recommendation) -> list[str]:
    cast = ", dtype=torch.bfloat16" if advice.situation.precision == "bf16" else ""
    return [
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        f"total_steps = {_value(advice.schedule.quantities['total_steps'])}",
        "",
        "# A stand-in: put your model and your batches here.",
        "model = torch.nn.Sequential(",
        "    torch.nn.Linear(64, 256), torch.nn.LayerNorm(256), torch.nn.GELU(), torch.nn.Linear(256, 10)",
        f").to(device{cast})",
        "generator = torch.Generator().manual_seed(0)",
        "inputs = torch.randn(20, 32, 64, generator=generator)",
        "targets = torch.randint(10, (20, 32), generator=generator)",
        "batches = zip(inputs, targets)",
    ]


def _groups(advice: Recommendation) -> list[str]:
    decay = _decay_name(advice)
    if advice.companion is not None:
        return [
            "# Hidden weight matrices go to the first optimizer; embeddings, heads, biases and norms to the second.",
            "named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]",
            'hidden = [p for n, p in named if p.ndim == 2 and not any(w in n for w in ("embed", "head"))]',
            "rest = [p for _, p in named if not any(p is h for h in hidden)]",
            'rest_groups = [{"params": [p for p in rest if p.ndim >= 2]}, {"params": [p for p in rest if p.ndim < 2], '
            '"weight_decay": 0.0}]',
        ]
    if decay is None:
        return ["parameters = [p for p in model.parameters() if p.requires_grad]"]
    return [
        "# Weight decay is for matrices; biases and norms (everything with one axis) get none.",
        "trained = [p for p in model.parameters() if p.requires_grad]",
        "parameters = [",
        '    {"params": [p for p in trained if p.ndim >= 2]},',
        f'    {{"params": [p for p in trained if p.ndim < 2], {decay!r}: 0.0}},',
        "]",
    ]


def _decay_name(advice: Recommendation) -> str | None:
    name = advice.implementation.arguments.get("weight_decay", "weight_decay")
    return name if name in advice.kwargs else None


def _optimizers(advice: Recommendation) -> list[str]:
    if advice.companion is None:
        lines = [f"optimizer = {_call(advice.implementation, 'parameters', advice.kwargs)}"]
    else:
        other, kwargs = advice.companion
        lines = [
            f"optimizer = {_call(advice.implementation, 'hidden', advice.kwargs)}",
            f"second = {_call(other, 'rest_groups', kwargs)}",
        ]
    if advice.implementation.needs_train_mode:
        lines.append("optimizer.train()  # and optimizer.eval() before evaluating or saving")
    return lines


def _call(implementation: Implementation, parameters: str, kwargs: Mapping[str, Any]) -> str:
    return f"{implementation.path}({', '.join([parameters, *_arguments(kwargs)])})"


def _arguments(kwargs: Mapping[str, Any]) -> Iterator[str]:
    for name, value in kwargs.items():
        if not name.isidentifier():
            raise RuleFileError(f"{name!r} is no argument name")
        yield f"{name}={_value(value)}"


def _value(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list) and value and not isinstance(value[0], list) else repr(value)


def _schedule(advice: Recommendation) -> list[str]:
    lines = ["def schedule(optimizer):"]
    names = []
    for number, (shape, path, kwargs) in enumerate(advice.schedule.phases):
        name = f"phase_{number}"
        if shape == "inverse-sqrt":
            warmup = _value(kwargs["warmup_steps"])
            lines.append(f"    warmup = max(1, {warmup})")
            factor = "lambda step: min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)"
            lines.append(f"    {name} = {path}(optimizer, lr_lambda={factor})")
        else:
            written = [f"{k}={v!r}" if k == "milestones" else f"{k}={_value(v)}" for k, v in kwargs.items()]
            if shape == "constant" and len(advice.schedule.phases) > 1:
                written.append("total_iters=0")
            lines.append(f"    {name} = {path}({', '.join(['optimizer', *written])})")
        names.append(name)
    if len(names) == 1:
        lines.append(f"    return {names[0]}")
    else:
        ends = advice.schedule.kwargs["milestones"]
        lines.append(f"    return {advice.schedule.path}(optimizer, [{', '.join(names)}], milestones={ends!r})")
    made = ["scheduler = schedule(optimizer)"]
    if advice.companion is not None:
        made.append("second_scheduler = schedule(second)")
    return ["", "# The schedule counts optimizer steps, not epochs.", *lines, "", "", *made]


def _loop(advice: Recommendation) -> list[str]:
    clip = next((n.value for n in advice.hyperparameters if n.name == "max_grad_norm"), None)
    autocast = _AUTOCAST.get(advice.situation.precision)
    scaled = advice.situation.precision == "amp-fp16"
    pairs = [("optimizer", "scheduler")]
    if advice.companion is not None:
        pairs.append(("second", "second_scheduler"))
    lines = ['scaler = torch.amp.GradScaler(device, enabled=device == "cuda")'] if scaled else []
    inputs = ".bfloat16()" if advice.situation.precision == "bf16" else ""
    lines += [
        "for step, (x, y) in zip(range(total_steps), batches):",
        f"    x, y = x.to(device){inputs}, y.to(device)",
    ]
    if autocast:
        lines.append(f"    with torch.autocast(device, dtype={autocast}):")
        lines.append("        loss = torch.nn.functional.cross_entropy(model(x), y)")
    else:
        lines.append("    loss = torch.nn.functional.cross_entropy(model(x), y)")
    lines.append("    scaler.scale(loss).backward()" if scaled else "    loss.backward()")
    if clip is not None:
        if scaled:
            lines += [f"    scaler.unscale_({name})  # the true gradient is clipped" for name, _ in pairs]
        lines.append(f"    torch.nn.utils.clip_grad_norm_(model.parameters(), {_value(clip)})")
    for name, scheduler in pairs:
        lines.append(f"    scaler.step({name})" if scaled else f"    {name}.step()")
        lines.append(f"    {scheduler}.step()  # after the optimizer, once per step")
    if scaled:
        lines.append("    scaler.update()")
    lines += [f"    {name}.zero_grad(set_to_none=True)" for name, _ in pairs]
    shown = 'print(f"step {step}: loss {loss.item():.4f}, next lr {scheduler.get_last_lr()[0]:.3g}")'
    return [*lines, "    if step % 5 == 0:", f"        {shown}"]
