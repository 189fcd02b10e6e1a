"""What the Python programs share: the optimizer, its parameter groups, the schedule, adapters and a stand-in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optadvise import __version__
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import WIDTH, arguments, call, comment, literal, path
from optadvise.domain import Implementation

Lines = list[str]
# Words in the names of matrices that are not hidden, as `bench/factory.py` has them.
OUTSIDE = ("embed", "embedding", "embeddings", "head", "token", "position", "wte", "wpe")
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
    return [*plain, *([""] if plain else []), *(part for line in others for part in _wrapped(line))]


def _wrapped(line: str) -> Lines:
    """Return an import in lines that are not too long."""
    module, _, names = line.partition(" import ")
    return [line] if len(line) <= WIDTH else call(f"{module} import ", names.split(", "))


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
    kwargs = {**advice.kwargs, **(advice.fused if fused else {})}
    lines += call(path(advice.implementation.path), ["parameters", *arguments(kwargs)], 4, "optimizer = ")
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
        f"    outside = {{{', '.join(map(literal, OUTSIDE))}}}",
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
    return call(path(made.path), [parameters, *arguments(kwargs)], indent, before, after)


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
    passes = first_steps(plan) * plan.accumulate
    if adapted(plan):
        return [language_model(plan), _batches_of_tokens(plan, passes),
                ["def loss_of(model, x, y):", "    return model(input_ids=x, labels=y).loss"]]  # fmt: skip
    size = "micro_batch" if plan.micro_batch is not None else "32"
    rows = plan.micro_batch or 32
    network = [
        "def stand_in():",
        '    """A small network and batches to learn, for a first run: put your own here."""',
        "    torch.manual_seed(0)",
        "    model = torch.nn.Sequential(",
        "        torch.nn.Linear(64, 256), torch.nn.LayerNorm(256), torch.nn.GELU(), torch.nn.Linear(256, 10)",
        "    )",
        f"    inputs = torch.randn({rows * passes}, 64)",
        "    data = torch.utils.data.TensorDataset(inputs, inputs[:, :10].argmax(1))",
        f"    return model, torch.utils.data.DataLoader(data, batch_size={size})",
    ]
    loss = ["def loss_of(model, x, y):", "    return torch.nn.functional.cross_entropy(model(x), y)"]
    return [network, loss]


def language_model(plan: Plan) -> Lines:
    """Return the function that makes a tiny language model, with the adapters where there are any."""
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
    return [*lines, "    return adapt(model)" if adapted(plan) else "    return model"]


def _batches_of_tokens(plan: Plan, passes: int) -> Lines:
    size = "micro_batch" if plan.micro_batch is not None else "8"
    return [
        "def stand_in():",
        '    """The tiny model and rows that count upwards, which it can learn."""',
        "    model = tiny_model()",
        f"    tokens = (torch.randint(256, ({(plan.micro_batch or 8) * passes}, 1)) + torch.arange(32)) % 256",
        "    data = torch.utils.data.TensorDataset(tokens, tokens)",
        f"    return model, torch.utils.data.DataLoader(data, batch_size={size})",
    ]


def sizes(plan: Plan) -> Lines:
    """Return the settings that say how long a run is and what one step is made of."""
    lines = [f"total_steps = {literal(plan.quantities['total_steps'])}"]
    if plan.micro_batch is not None:
        lines.append(f"micro_batch = {plan.micro_batch!r}  # samples of one pass")
    return lines


def halves(plan: Plan) -> bool:
    """Are the weights themselves in 16 bits?"""
    return plan.advice.situation.precision == "bf16" and not quantised(plan)


def placed() -> Lines:
    """Return the function that gives a batch the weights' type, where weights are in 16 bits."""
    return [
        "def placed(x, device):",
        '    """Move a tensor; what is no count gets the weights\' type."""',
        "    return x.to(device, torch.bfloat16) if x.is_floating_point() else x.to(device)",
    ]


def first_steps(plan: Plan) -> int:
    """Return how many steps the stand-in takes when a program is run as it stands."""
    return max(2, _STEPS // plan.accumulate)
