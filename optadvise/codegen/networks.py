"""The part of a program that makes adapters, and a small network with batches to begin with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from optadvise.codegen.parts import Lines, adapted, first_steps, quantised
from optadvise.codegen.plan import Plan
from optadvise.codegen.values import call


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
