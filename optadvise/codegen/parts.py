"""What the Python programs share: the optimizer, its parameter groups, the schedule, adapters and a stand-in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optadvise import __version__
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import arguments, call, comment, literal, path
from optadvise.domain import Implementation

Lines = list[str]
_STEPS = 20  # of the stand-in


def whole(plan: Plan, imports: Iterable[str], blocks: Iterable[Lines], start: Lines) -> str:
    """Return a program.

    Args:
        plan: What it is of.
        imports: Lines of import beside those that the optimizer and the schedule need.
        blocks: Settings and functions, in their order.
        start: What it does when it is run.
    """
    main = ['if __name__ == "__main__":', *(f"    {line}" for line in start)]
    parts = [[*header(plan), "", *_imports(plan, imports)], *blocks, main]
    return "\n\n\n".join("\n".join(part) for part in parts) + "\n"


def header(plan: Plan) -> Lines:
    """Return the comments that say what this is, why, what it needs and what it could not express."""
    advice = plan.advice
    packages = {plan.framework.package, advice.implementation.package, *(["peft"] if adapted(plan) else [])}
    if advice.companion is not None:
        packages.add(advice.companion[0].package)
    lines = comment(f"{advice.optimizer.name} under {advice.schedule.id}, by optadvise {__version__} "
                    f"(rules {advice.fingerprint}).")  # fmt: skip
    for entry in advice.trace:
        lines += comment(f"{entry.rule}: {entry.because}")
    lines += comment(f"Needs: pip install {' '.join(sorted(name for name in packages | {'torch'} if name))}")
    for note in plan.notes:
        lines += comment(f"Note: {note}")
    return lines


def _imports(plan: Plan, further: Iterable[str]) -> Lines:
    advice = plan.advice
    paths = [*(leg for _, leg, _ in advice.schedule.phases), advice.schedule.path]
    if plan.named is None or plan.framework.writes != "python":
        paths.append(advice.implementation.path)
    if advice.companion is not None:
        paths.append(advice.companion[0].path)
    modules = {path(one, advice.optimizer.at).rsplit(".", 1)[0] for one in paths}
    lines = {*further, *(f"import {module}" for module in modules if not module.startswith("torch.")), "import torch"}
    plain = sorted(line for line in lines if line in _STANDARD)
    others = sorted(lines - {*plain}, key=lambda line: (line.startswith("from "), line))
    return [*plain, *([""] if plain else []), *others]


_STANDARD = {"import itertools", "import os", "import sys", "import tempfile"}


def several(plan: Plan) -> bool:
    """Are there several optimizers, so that the program holds lists of them?"""
    return plan.release or plan.advice.companion is not None


def adapted(plan: Plan) -> bool:
    """Are adapters trained on a frozen model?"""
    return plan.advice.situation.method != "full"


def each(plan: Plan, line: str, indent: int = 4) -> Lines:
    """Return a line about `optimizer` or `scheduler`, in a loop where there are several.

    Args:
        plan: Says whether there are.
        line: What to do with one.
        indent: Columns before it.
    """
    blank = " " * indent
    if not several(plan):
        return [blank + line]
    name = "scheduler" if "scheduler" in line else "optimizer"
    return [f"{blank}for {name} in {name}s:", f"{blank}    {line}"]


# -- the optimizer ---------------------------------------------------------------------------------------------------


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
    lines += make(advice.implementation, advice.kwargs, "parameters", "optimizer = ", fused=fused)
    if advice.implementation.needs_train_mode:
        lines.append("    optimizer.train()  # and optimizer.eval() before evaluating")
    return [*lines, "    return optimizer, schedule(optimizer)"]


def _pair(plan: Plan) -> Lines:
    advice = plan.advice
    assert advice.companion is not None
    other, kwargs = advice.companion
    return [
        "def configure(model):",
        '    """Return both optimizers and their schedules."""',
        *_hidden(),
        "    rest = [p for p in trained if not any(p is h for h in hidden)]",
        "    others = [",
        '        {"params": [p for p in rest if p.ndim >= 2]},',
        '        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},',
        "    ]",
        *make(advice.implementation, advice.kwargs, "hidden", "first = "),
        *make(other, kwargs, "others", "second = "),
        "    optimizers = [first, second]",
        "    return optimizers, [schedule(optimizer) for optimizer in optimizers]",
    ]


def _hidden() -> Lines:
    return [
        "    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]",
        "    trained = [p for _, p in named]",
        "    # Hidden weight matrices go to the first optimizer; embeddings, heads, biases and norms to the second.",
        "    tables = {id(w) for m in model.modules() if isinstance(m, torch.nn.Embedding) for w in m.parameters()}",
        '    outside = ("embed", "head", "token", "position")',
        "    hidden = [",
        "        p for n, p in named if p.ndim == 2 and id(p) not in tables and not any(word in n for word in outside)",
        "    ]",
    ]


def _released(plan: Plan) -> Lines:
    """Return a function that gives each weight an optimizer of its own, stepped while gradients are made."""
    advice = plan.advice
    lines = [
        "def configure(model):",
        '    """Give each weight an optimizer that steps it once its gradient is there; return them and schedules."""',
        "    optimizers = {}",
    ]
    decay = _decay(advice.implementation, advice.kwargs)
    if advice.companion is None:
        lines += ["    for p in model.parameters():", "        if not p.requires_grad:", "            continue"]
    else:
        other, kwargs = advice.companion
        lines += [*_hidden(), "    for p in trained:"]
    group = (
        '[{"params": [p]}]'
        if decay is None
        else f'[{{"params": [p], **({{}} if p.ndim >= 2 else {{"{decay}": 0.0}})}}]'
    )
    if advice.companion is None:
        lines += make(advice.implementation, advice.kwargs, group, "optimizers[p] = ", indent=8)
    else:
        group = '[{"params": [p], **({} if p.ndim >= 2 else {"weight_decay": 0.0})}]'
        lines += ["        if any(p is h for h in hidden):",
                  *make(advice.implementation, advice.kwargs, "[p]", "optimizers[p] = ", indent=12),
                  "        else:",
                  *make(other, kwargs, group, "optimizers[p] = ", indent=12)]  # fmt: skip
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


def make(
    implementation: Implementation,
    kwargs: Mapping[str, Any],
    parameters: str,
    before: str,
    indent: int = 4,
    *,
    fused: bool = True,
) -> Lines:
    """Return the call of an optimizer's class.

    Args:
        implementation: The class.
        kwargs: Its arguments.
        parameters: What it steps, as written.
        before: What stands before the call.
        indent: Columns before the line.
        fused: In one kernel, where it has one.
    """
    given = [parameters, *arguments({**kwargs, **(implementation.fused if fused else {})})]
    return call(path(implementation.path), given, indent, before)


def _decay(implementation: Implementation, kwargs: Mapping[str, Any]) -> str | None:
    """Return the constructor's name for weight decay, None where it takes none."""
    name = implementation.arguments.get("weight_decay", "weight_decay")
    return name if name in kwargs else None


# -- the schedule ----------------------------------------------------------------------------------------------------


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


_LEGS = {"constant": "plateau", "linear": "fall"}


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


# -- adapters, and a network and batches to begin with ---------------------------------------------------------------


def adapters(plan: Plan) -> Lines:
    """Return the function that freezes a model and adds adapters."""
    run = plan.advice.situation
    targets: Any = (
        "all-linear" if run.lora_targets == "all" else [f"{name}_proj" for name in run.lora_targets.split(",")]
    )
    rank = run.lora_rank or 16
    given = [f"r={rank!r}", f"lora_alpha={rank!r}", f"target_modules={targets!r}"]
    return [
        "def adapt(model):",
        '    """Freeze the model and add the adapters that are trained."""',
        *(["    model = prepare_model_for_kbit_training(model)"] if quantised(plan) else []),
        "    # An alpha equal to the rank leaves the adapters' update as it is.",
        *call("LoraConfig", given, 4, "config = "),
        "    return get_peft_model(model, config)",
    ]


def quantised(plan: Plan) -> bool:
    """Is the frozen model held in 4 bits?"""
    return plan.advice.situation.method == "qlora"


def adapter_imports(plan: Plan, *, language: bool, further: Iterable[str] = ()) -> Iterator[str]:
    """Yield the imports that adapters and the stand-in of a language model need.

    Args:
        plan: What is written.
        language: The stand-in is a language model.
        further: Names that are needed from transformers besides.
    """
    names = [*further, *(["LlamaConfig", "LlamaForCausalLM"] if language else [])]
    if adapted(plan):
        extra = ["prepare_model_for_kbit_training"] if quantised(plan) else []
        yield f"from peft import {', '.join(['LoraConfig', 'get_peft_model', *extra])}"
    if quantised(plan):
        yield "import tempfile"
        names += ["AutoModelForCausalLM", "BitsAndBytesConfig"]
    if names:
        yield f"from transformers import {', '.join(sorted(names))}"


def stand_in(plan: Plan) -> list[Lines]:
    """Return the functions that make a small network with batches, and its loss."""
    passes = max(2, _STEPS // plan.accumulate) * plan.accumulate
    if adapted(plan):
        return [language_model(plan), _batches_of_tokens(passes),
                ["def loss_of(model, x, y):", "    return model(input_ids=x, labels=y).loss"]]  # fmt: skip
    half = plan.advice.situation.precision == "bf16"
    network = [
        "def stand_in():",
        '    """A small network and batches to learn, for a first run: put your own here."""',
        "    torch.manual_seed(0)",
        "    model = torch.nn.Sequential(",
        "        torch.nn.Linear(64, 256), torch.nn.LayerNorm(256), torch.nn.GELU(), torch.nn.Linear(256, 10)",
        "    )",
        *(["    model = model.bfloat16()"] if half else []),
        f"    inputs = torch.randn({32 * passes}, 64)",
        "    data = torch.utils.data.TensorDataset(inputs, inputs[:, :10].argmax(1))",
        "    return model, torch.utils.data.DataLoader(data, batch_size=32)",
    ]
    cast = "x.bfloat16()" if half else "x"
    loss = ["def loss_of(model, x, y):", f"    return torch.nn.functional.cross_entropy(model({cast}), y)"]
    return [network, loss]


def language_model(plan: Plan) -> Lines:
    """Return the function that makes a tiny language model, with the adapters where there are any."""
    half = plan.advice.situation.precision == "bf16" and not quantised(plan)
    lines = [
        "def tiny_model():",
        '    """A tiny language model, for a first run: put your own here."""',
        "    torch.manual_seed(0)",
        "    config = LlamaConfig(",
        "        vocab_size=256, hidden_size=64, intermediate_size=128,",
        "        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,",
        "    )",
        "    model = LlamaForCausalLM(config)",
    ]
    if quantised(plan):
        given = ["load_in_4bit=True", "bnb_4bit_quant_type='nf4'", "bnb_4bit_use_double_quant=True",
                 "bnb_4bit_compute_dtype=torch.bfloat16"]  # fmt: skip
        lines += [
            "    base = tempfile.mkdtemp()  # a model's name or folder instead",
            "    model.save_pretrained(base)",
            *call("BitsAndBytesConfig", given, 4, "four_bit = "),
            "    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bit)",
        ]
    if half:
        lines.append("    model = model.bfloat16()")
    return [*lines, "    return adapt(model)" if adapted(plan) else "    return model"]


def _batches_of_tokens(passes: int) -> Lines:
    return [
        "def stand_in():",
        '    """The tiny model and rows that count upwards, which it can learn."""',
        "    model = tiny_model()",
        f"    tokens = (torch.randint(256, ({8 * passes}, 1)) + torch.arange(32)) % 256",
        "    data = torch.utils.data.TensorDataset(tokens, tokens)",
        "    return model, torch.utils.data.DataLoader(data, batch_size=8)",
    ]
