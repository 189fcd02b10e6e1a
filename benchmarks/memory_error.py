"""Error of the memory estimate, measured with whole training steps under fake tensors.

Usage: python benchmarks/memory_error.py [--markdown FILE]

Trains each configuration for two steps with fake tensors (`fake_peak.py`) and compares the peak with the prediction.
If torch has a CUDA device, the same steps run there, and the allocator's peak is printed too. Targets: median error at
most 5 %, largest error at most 15 %, and 90 % inside the interval.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from fake_peak import ATTENTION, auto_class, fake_peak, register_attention  # noqa: E402

from optadvise.advice.compiled_rules import CompiledRules  # noqa: E402
from optadvise.advice.complete import complete_situation  # noqa: E402
from optadvise.core.records import InputValue  # noqa: E402
from optadvise.memory import estimator  # noqa: E402
from optadvise.memory.architectures import build_named_shape  # noqa: E402
from optadvise.memory.hf_config import read_hf_config  # noqa: E402
from optadvise.rulebase.catalog import load  # noqa: E402
from tests import convnets  # noqa: E402

GIB = 2**30


class Case(NamedTuple):
    """Training configuration."""

    network: str
    optimizer: str
    precision: str
    samples: int
    length: int
    checkpointing: str = "none"
    attention: str = "flash"
    accumulation: int = 1
    lora: str = ""  # linear layers with adapters of rank 16: names joined by commas, or all; empty: full training


# Hugging Face configurations: small, so that 40 runs take minutes, but large enough that constants do not dominate.
_WIDE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
         "vocab_size": 32000}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 150M": ("llama", {**_WIDE, "num_key_value_heads": 4}),
    "mistral 110M": ("mistral", {**_WIDE, "num_key_value_heads": 4, "num_hidden_layers": 8}),
    "qwen2 50M": ("qwen2", {**_WIDE, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2,
                            "intermediate_size": 1536, "num_hidden_layers": 8}),
    "qwen3 120M": ("qwen3", {**_WIDE, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True}),
    "gemma 160M": ("gemma", {**_WIDE, "num_key_value_heads": 4, "head_dim": 64}),
    "phi3 150M": ("phi3", {**_WIDE, "pad_token_id": 0}),
    "gpt2 124M": ("gpt2", {}),
    "gpt-neox 160M": ("gpt_neox", _WIDE),
    "opt 125M": ("opt", {"word_embed_proj_dim": 768}),
    "bert 110M": ("bert", {}),
    "roberta 125M": ("roberta", {"vocab_size": 50265}),
    "t5 60M": ("t5", {"decoder_start_token_id": 0, "pad_token_id": 0}),
    "vit 86M": ("vit", {}),
    "mixtral 300M": ("mixtral", {**_WIDE, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4,
                                 "intermediate_size": 1024, "num_hidden_layers": 8}),
}  # fmt: skip
# Names of a block's linear layers, by the short names of optadvise.
_DECODER = {**{word: rf"self_attn\.{word}_proj" for word in "qkvo"},
            **{word: rf"mlp\.{word}_proj" for word in ("gate", "up", "down")}}  # fmt: skip
LAYERS: dict[str, dict[str, str]] = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "gemma": _DECODER,
    "phi3": {"qkv": r"self_attn\.qkv_proj", "o": r"self_attn\.o_proj", "gate_up": r"mlp\.gate_up_proj",
             "down": r"mlp\.down_proj"},
    "gpt2": {"qkv": r"attn\.c_attn", "o": r"attn\.c_proj", "up": r"mlp\.c_fc", "down": r"mlp\.c_proj"},
    "bert": {"q": r"attention\.self\.query", "k": r"attention\.self\.key", "v": r"attention\.self\.value",
             "o": r"attention\.output\.dense", "up": r"intermediate\.dense", "down": r"output\.dense"},
    "vit": {**{word: rf"attention\.{word}_proj" for word in "qkvo"}, "up": r"mlp\.fc1", "down": r"mlp\.fc2"},
}  # fmt: skip
RANK = 16  # of adapters
CONVNETS = {
    "resnet18": lambda: convnets.resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: convnets.resnet((3, 4, 6, 3), bottleneck=True),
    "convnext-tiny": lambda: convnets.convnext((3, 3, 9, 3), 96),
    "mobilenet-v2": convnets.mobilenet_v2,
    "efficientnet-b0": convnets.efficientnet_b0,
}
CASES = (
    Case("llama 150M", "adamw", "amp-bf16", 4, 1024),
    Case("llama 150M", "adamw", "bf16", 8, 1024, "full"),
    Case("llama 150M", "lion", "fp32", 2, 1024),
    Case("llama 150M", "adamw", "amp-bf16", 2, 1024, attention="eager"),
    Case("llama 150M", "adamw", "amp-bf16", 2, 512, accumulation=4),
    Case("mistral 110M", "adamw", "bf16", 4, 2048),
    Case("mistral 110M", "sgd-momentum", "amp-bf16", 2, 2048, "full"),
    Case("qwen2 50M", "adamw", "fp32", 4, 512),
    Case("qwen2 50M", "adagrad", "fp32", 1, 128),
    Case("qwen3 120M", "adamw", "amp-bf16", 4, 1024, "full"),
    Case("qwen3 120M", "nadam", "bf16", 4, 512),
    Case("gemma 160M", "adamw", "bf16", 2, 1024),
    Case("gemma 160M", "adamw", "amp-bf16", 4, 512, "full"),
    Case("phi3 150M", "adamw", "amp-bf16", 4, 1024),
    Case("gpt2 124M", "adamw", "amp-bf16", 8, 1024),
    Case("gpt2 124M", "adamw", "fp32", 2, 1024, "full"),
    Case("gpt2 124M", "rmsprop", "bf16", 1, 128),
    Case("gpt2 124M", "adamw", "fp32", 4, 512, attention="eager"),
    Case("gpt-neox 160M", "adamw", "bf16", 4, 1024),
    Case("opt 125M", "adamw", "amp-bf16", 4, 1024),
    Case("bert 110M", "adamw", "amp-bf16", 16, 512),
    Case("bert 110M", "adamw", "fp32", 8, 512, attention="eager"),
    Case("bert 110M", "adadelta", "fp32", 1, 64),
    Case("roberta 125M", "adamw", "bf16", 16, 512, "full"),
    Case("t5 60M", "lion", "fp32", 8, 512),
    Case("t5 60M", "adamw", "bf16", 8, 512, attention="eager"),
    Case("vit 86M", "adamw", "amp-bf16", 32, 224),
    Case("vit 86M", "adamw", "bf16", 64, 224, "full"),
    Case("mixtral 300M", "adamw", "bf16", 4, 512),
    Case("resnet18", "sgd-momentum", "fp32", 64, 224),
    Case("resnet50", "sgd-momentum", "amp-bf16", 64, 224),
    Case("resnet50", "adamw", "bf16", 32, 224),
    Case("convnext-tiny", "adamw", "amp-bf16", 32, 224),
    Case("mobilenet-v2", "rmsprop", "amp-bf16", 64, 224),
    Case("efficientnet-b0", "sgd-momentum", "fp32", 32, 224),
    Case("llama 150M", "adamw", "amp-bf16", 4, 1024, lora="all"),
    Case("llama 150M", "adamw", "bf16", 8, 1024, "full", lora="q,v"),
    Case("gpt2 124M", "adamw", "amp-bf16", 4, 512, attention="eager", lora="qkv"),
    Case("bert 110M", "adamw", "bf16", 16, 256, lora="q,v"),
    Case("vit 86M", "adamw", "fp32", 16, 224, lora="all"),
)


class Result(NamedTuple):
    """Result of one case, in bytes of tensors."""

    case: Case
    predicted: int
    low: int
    high: int
    fake: int
    allocator: int | None  # of a CUDA device; None without CUDA

    @property
    def error(self) -> float:
        """Return the relative error of the prediction."""
        return self.predicted / self.fake - 1

    @property
    def is_inside(self) -> bool:
        """Return whether the interval contains the peak of fake tensors."""
        return self.low <= self.fake <= self.high


class _Output(NamedTuple):
    loss: torch.Tensor


class _WithLoss(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """Convolutional network with the output of a Hugging Face model."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> _Output:
        logits = self.body(pixel_values)
        return _Output(torch.nn.functional.cross_entropy(logits.float(), labels))


def predict(advisor: CompiledRules, case: Case) -> tuple[int, int, int]:
    """Return the low, expected and high estimate of tensor bytes."""
    rules = advisor.memory_rules
    if case.network in CONVNETS:
        shape = build_named_shape(rules.networks, case.network)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.json"
            file.write_text(json.dumps(_config(case).to_dict(), default=str), encoding="utf-8")
            shape = read_hf_config(rules.networks, rules.settings.unsupported_heads, file)
    model = rules.networks.find_family(shape).model
    answers: dict[str, InputValue] = {
        "shape": shape, "model": model, "precision": case.precision, "micro_batch": case.samples,
        "batch_size": case.samples * case.accumulation, "checkpointing": case.checkpointing,
        "image_size" if model in ("vit", "cnn") else "seq_len": case.length,
    }  # fmt: skip
    if model != "cnn":
        answers["attention"] = case.attention
    if case.lora:
        answers |= {"method": "lora", "lora_rank": RANK, "lora_targets": case.lora}
    memory = estimator.estimate(rules, complete_situation(advisor, answers), case.optimizer)
    spans = [line.interval for line in memory.breakdown[:-2] if line.interval is not None]
    assert memory.allocated is not None
    return sum(span.low for span in spans), memory.allocated, sum(span.high for span in spans)


def _config(case: Case) -> Any:
    from transformers import AutoConfig

    kind, arguments = CONFIGS[case.network]
    config = AutoConfig.for_model(kind, **arguments)
    config._attn_implementation = "eager" if case.attention == "eager" else ATTENTION
    return config


def make_model(case: Case) -> Any:
    """Return the network of a case."""
    if case.network in CONVNETS:
        return _WithLoss(CONVNETS[case.network]())
    from transformers.initialization import no_init_weights

    config = _config(case)
    if case.lora:
        return _add_adapters(config, case)
    with no_init_weights() if config.model_type == "vit" else nullcontext():  # its initialization reads values
        return auto_class(config.model_type).from_config(config)


def _add_adapters(config: Any, case: Case) -> Any:
    """Return a frozen network with PEFT's adapters, which are in fp32 except in pure bf16 training."""
    from peft import LoraConfig, get_peft_model

    base = torch.float32 if case.precision == "fp32" else torch.bfloat16
    layers = LAYERS[config.model_type]
    names = [layers[word] for word in (layers if case.lora == "all" else case.lora.split(","))]
    adapters = LoraConfig(r=RANK, lora_dropout=0.0, target_modules=rf".*\.\d+\.({'|'.join(names)})",
                          fan_in_fan_out=config.model_type == "gpt2")  # fmt: skip
    # PEFT converts layers in place, which fake tensors do not support. `enable_input_require_grads` is not used: this
    # kind of checkpointing does not need it, and under `MemTracker` it would keep the previous embeddings.
    with unset_fake_temporarily(), torch.device("meta"):
        base_model = auto_class(config.model_type).from_config(config, dtype=base)
        model = get_peft_model(base_model, adapters, autocast_adapter_dtype=case.precision != "bf16")
    replaced: dict[int, Any] = {}  # by the id of the original, so that tied weights stay tied
    for module in model.modules():
        for name, old in [*module._parameters.items(), *module._buffers.items()]:
            if old is not None and id(old) not in replaced:
                new = torch.zeros(old.shape, dtype=old.dtype)  # indices in buffers must be valid
                is_parameter = isinstance(old, torch.nn.Parameter)
                replaced[id(old)] = torch.nn.Parameter(new, old.requires_grad) if is_parameter else new
            if old is not None:
                (module._parameters if name in module._parameters else module._buffers)[name] = replaced[id(old)]
    return model


def make_batch(case: Case) -> dict[str, Any]:
    """Return the keyword arguments of one forward pass."""
    if case.network in CONVNETS or CONFIGS[case.network][0] == "vit":
        classes = 1000 if case.network in CONVNETS else _config(case).num_labels
        dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
        images = torch.empty(case.samples, 3, case.length, case.length, dtype=dtype)
        return {"pixel_values": images, "labels": torch.randint(0, classes, (case.samples,))}
    tokens = torch.randint(0, _config(case).vocab_size, (case.samples, case.length))
    return {"input_ids": tokens, "labels": tokens.clone()}


def make_optimizer(advisor: CompiledRules, case: Case, parameters: Any) -> Any:
    """Return the optimizer of the card, in its fused variant or else its foreach variant."""
    card = advisor.catalog.optimizer(case.optimizer)
    implementation = card.implementations[0]
    module, _, name = implementation.path.rpartition(".")
    kwargs = {implementation.arguments.get(h.name, h.name): h.default for h in card.hyperparameters} | dict(
        implementation.kwargs
    )
    kwargs |= dict(implementation.fused or implementation.variants.get("foreach") or {})
    return getattr(importlib.import_module(module), name)(parameters, **kwargs)


def make_real_model(case: Case, device: str) -> Any:
    """Return the network of a case with real tensors on a device, ready to train.

    As with fake tensors, weights are created in their data type: adapters may have another one than frozen weights.
    """
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if case.precision == "bf16" else default_dtype)
    try:
        with torch.device(device):
            model = make_model(case).to(device).train()
    finally:
        torch.set_default_dtype(default_dtype)
    if hasattr(getattr(model, "config", None), "use_cache"):
        model.config.use_cache = False
    if case.attention == "flash" and hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("sdpa")
    if case.checkpointing == "full":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def measure_on_cuda(advisor: CompiledRules, case: Case) -> int | None:
    """Return the allocator's peak of the same steps on a CUDA device; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    gc.collect()
    torch.cuda.empty_cache()
    _allocate_workspaces()
    allocated = torch.cuda.memory_allocated()
    model = make_real_model(case, "cuda")
    optimizer = make_optimizer(advisor, case, [p for p in model.parameters() if p.requires_grad])
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        for _ in range(case.accumulation):
            batch = {name: value.cuda() for name, value in make_batch(case).items()}
            with torch.autocast("cuda", torch.bfloat16, enabled=case.precision.startswith("amp")):
                loss = model(**batch).loss
            loss.backward()
            del loss, batch
        optimizer.step()
        optimizer.zero_grad()
    peak: int = torch.cuda.max_memory_allocated() - allocated
    return peak


def _allocate_workspaces() -> None:
    """Let cuBLAS allocate its workspaces for forward and backward, which the estimate counts with the CUDA context."""
    layer = torch.nn.Linear(64, 64, device="cuda")
    layer(torch.ones(64, 64, device="cuda")).sum().backward()


def run_cases(advisor: CompiledRules) -> Iterator[Result]:
    """Yield the result of every case."""
    for case in CASES:
        low, expected, high = predict(advisor, case)
        fake = fake_peak(
            partial(make_model, case), partial(make_batch, case), partial(make_optimizer, advisor, case),
            precision=case.precision, checkpointing=case.checkpointing == "full", accumulation=case.accumulation,
        )["total"]  # fmt: skip
        yield Result(case, expected, low, high, fake, measure_on_cuda(advisor, case))


def format_row(result: Result) -> str:
    """Return a row of the table."""
    case = result.case
    settings = [case.precision, f"{case.samples} × {case.length}"]
    settings += ["checkpointing"] if case.checkpointing == "full" else []
    settings += ["eager"] if case.attention == "eager" else []
    settings += [f"LoRA on {case.lora}"] if case.lora else []
    settings += [f"{case.accumulation} accumulation steps"] if case.accumulation > 1 else []
    cuda = "" if result.allocator is None else f"{result.allocator / GIB:.3f}"
    return (
        f"| {case.network} | {case.optimizer} | {', '.join(settings)} | {result.predicted / GIB:.3f} "
        f"| {result.fake / GIB:.3f} | {result.error:+.1%} | {'yes' if result.is_inside else 'no'} | {cuda} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    register_attention()
    lines = [
        "| network | optimizer | run | predicted GiB | fake tensors GiB | error | inside | CUDA allocator GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    results = []
    for result in run_cases(CompiledRules(load())):
        results.append(result)
        lines.append(format_row(result))
        print(lines[-1], flush=True)
    errors = [abs(result.error) for result in results]
    inside = sum(result.is_inside for result in results) / len(results)
    summary = (
        f"{len(results)} configurations: median error {statistics.median(errors):.1%} (at most 5 %), largest "
        f"{max(errors):.1%} (at most 15 %), {inside:.0%} inside the interval (at least 90 %)."
    )
    print(summary)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join([*lines, "", summary, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
