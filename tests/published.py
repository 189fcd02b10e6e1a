"""Published memory measurements (`tests/published_memory.yaml`), compared with the estimate."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from msgspec.structs import astuple

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.core.errors import InputError
from optadvise.core.records import Interval, NetworkShape
from optadvise.memory import estimator
from optadvise.memory.architectures import build_named_shape
from optadvise.memory.hf_config import read_hf_config
from tests.conftest import ROOT

UNITS = {"GB": 10**9, "GiB": 2**30}
EQUAL_KEYS = (
    "task", "method", "lora_rank", "precision", "checkpointing", "attention", "micro_batch", "seq_len", "image_size",
    "gpus", "shard",
)  # fmt: skip


class Comparison(NamedTuple):
    """A measured figure and its prediction, in bytes."""

    id: str
    held_out: bool
    measures: str  # allocated, reserved or process
    measured: int
    predicted: int
    interval: Interval

    @property
    def error(self) -> float:
        """Return the relative error, positive if the prediction is too high."""
        return self.predicted / self.measured - 1


def read_figures() -> list[dict[str, Any]]:
    text = (ROOT / "tests" / "published_memory.yaml").read_text(encoding="utf-8")
    figures: list[dict[str, Any]] = yaml.safe_load(text)["figures"]
    return figures


def explain_exclusion(figure: dict[str, Any]) -> str | None:
    """Return why a figure cannot be compared; None if it can."""
    settings = figure["given"]
    if "galore" in settings.get("optimizer", ""):
        return "GaLore is not in the catalog"
    if settings.get("offload") in ("all", "parameters"):
        return "offloaded weights are not supported"
    parallel = [name for name in ("tp", "pp", "cp", "ep") if settings.get(name, 1) > 1]
    if parallel:
        return "tensor, pipeline, context and expert parallelism are not supported"
    if settings.get("float8") or settings.get("quantization"):
        return "float8 and 8-bit weights are not supported"
    if settings.get("compile"):
        return "torch.compile is not supported"
    if settings["kind"] in ("diffusion-unet", "dit"):
        return "diffusion networks are not described"
    if settings["kind"] == "cnn" and _named(figure) is None:
        return "the convolutional network is not described"
    if settings.get("kind") == "vit" and "patch" in settings.get("shape", {}) and _named(figure) is None:
        return "a gated vision transformer is not supported"
    if settings.get("kind") != "cnn" and "seq_len" not in settings and "image_size" not in settings:
        return "the source does not specify the sample length"
    return None


@cache
def compiled_rules() -> CompiledRules:
    from optadvise.rulebase.catalog import load

    return CompiledRules(load())


def _named(figure: dict[str, Any]) -> NetworkShape | None:
    try:
        return build_named_shape(compiled_rules().memory_rules.networks, figure["given"].get("arch", ""))
    except InputError:
        return None


def _shape(figure: dict[str, Any]) -> NetworkShape | None:
    """Return the shape of a figure's network: a named shape, or a family with the figure's dimensions."""
    named, dims = _named(figure), figure["given"].get("shape")
    if named is not None or not dims or "ffn" not in dims:
        return named
    config = {
        "model_type": "llama" if dims.get("gated") else "gpt_neox", "hidden_size": dims["hidden"],
        "num_hidden_layers": dims["layers"], "num_attention_heads": dims["heads"], "intermediate_size": dims["ffn"],
        "num_key_value_heads": dims.get("kv_heads", dims["heads"]), "vocab_size": dims["vocab"],
        "tie_word_embeddings": dims.get("tied", False),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        rules = compiled_rules().memory_rules
        return read_hf_config(rules.networks, rules.settings.unsupported_heads, file)


def compare_all() -> list[Comparison]:
    """Return the comparisons of all figures that are not excluded."""
    return [compare(figure) for figure in read_figures() if explain_exclusion(figure) is None]


def format_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a Markdown table of all figures and predictions, and the errors of both halves."""
    gib = 2**30
    lines = [
        "| figure | counts | measured GiB | predicted GiB | error | inside | held out |",
        "|---|---|---|---|---|---|---|",
    ]
    for comparison in comparisons:
        inside = comparison.interval.low <= comparison.measured <= comparison.interval.high
        lines.append(
            f"| {comparison.id} | {comparison.measures} | {comparison.measured / gib:.2f} "
            f"| {comparison.predicted / gib:.2f} | {comparison.error:+.0%} | {'yes' if inside else 'no'} "
            f"| {'yes' if comparison.held_out else ''} |"
        )
    lines.append("")
    for name, is_held_out in (("Tuned on", False), ("Held out", True)):
        half = [item for item in comparisons if item.held_out is is_held_out]
        share = sum(item.interval.low <= item.measured <= item.interval.high for item in half) / len(half)
        median = statistics.median(abs(item.error) for item in half)
        lines.append(f"{name}: {len(half)} figures, median error {median:.1%}, {share:.0%} inside the interval.")
    excluded = [
        f"{figure['id']} ({why})" for figure in read_figures() if (why := explain_exclusion(figure)) is not None
    ]
    return [*lines, "", f"Excluded: {', '.join(excluded)}."]


def compare(figure: dict[str, Any]) -> Comparison:
    """Return the comparison of a figure."""
    settings = figure["given"]
    shape = _shape(figure)
    inputs: dict[str, Any] = {name: settings[name] for name in EQUAL_KEYS if settings.get(name) is not None}
    inputs["model"] = {"encoder": "transformer"}.get(settings["kind"], settings["kind"])
    if shape is None:
        inputs["params"] = settings["params"]
    else:
        inputs |= {"shape": shape, "model": compiled_rules().memory_rules.networks.find_family(shape).model}
    inputs.pop("seq_len" if inputs["model"] in ("cnn", "vit") else "image_size", None)
    if inputs["model"] == "cnn":
        inputs.pop("attention", None)
    if inputs.get("method", "full") != "full":
        inputs["task"] = "finetune"
        inputs["lora_targets"] = ",".join(settings.get("lora_targets", ["all"]))
    if settings.get("engine") == "deepspeed" and settings["shard"] != "none":
        inputs["engine"] = "deepspeed"
    inputs["gradient_release"] = bool(settings.get("gradient_release"))
    inputs["offload"] = settings.get("offload") == "optimizer"
    inputs["loss"] = "chunked" if settings.get("fused_loss") else "whole"
    if settings.get("accumulation", 1) > 1:
        inputs["batch_size"] = settings["accumulation"] * settings["micro_batch"] * settings.get("gpus", 1)
    situation = complete_situation(compiled_rules(), inputs)
    name = {"adam8bit": "adamw8bit"}.get(settings.get("optimizer", "adamw"), settings.get("optimizer", "adamw"))
    memory = estimator.estimate(compiled_rules().memory_rules, situation, compiled_rules().catalog.find_optimizer(name))
    assert memory.total is not None, figure["id"]
    assert memory.allocated is not None, figure["id"]
    assert memory.reserved is not None, figure["id"]
    assert memory.interval is not None, figure["id"]
    predicted = {"allocated": memory.allocated, "reserved": memory.reserved, "process": memory.total}
    difference = memory.total - predicted[figure["measures"]]
    return Comparison(
        figure["id"], bool(figure.get("held_out")), figure["measures"],
        round(figure["value"] * UNITS[figure["unit"]]), predicted[figure["measures"]],
        Interval(*(end - difference for end in astuple(memory.interval))),
    )  # fmt: skip
