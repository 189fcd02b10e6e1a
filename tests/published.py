"""Published measured figures as runs: what `tests/published_memory.yaml` says, put to the estimator."""

from __future__ import annotations

import json
import statistics
import tempfile
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
SAME = (
    "task", "method", "lora_rank", "precision", "checkpointing", "attention", "micro_batch", "seq_len", "image_size",
    "gpus", "shard",
)  # fmt: skip


class Compared(NamedTuple):
    """One figure beside its prediction, in bytes."""

    id: str
    held_out: bool
    measures: str  # allocated, reserved or process
    measured: int
    predicted: int
    interval: Interval

    @property
    def error(self) -> float:
        """Relative, positive where the prediction is too high."""
        return self.predicted / self.measured - 1


def figures() -> list[dict[str, Any]]:
    text = (ROOT / "tests" / "published_memory.yaml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)["figures"]
    return found


def cannot(figure: dict[str, Any]) -> str | None:
    """Return why a figure cannot be put to the estimator, None where it can."""
    given = figure["given"]
    if "galore" in given.get("optimizer", ""):
        return "GaLore is not in the catalogue"
    if given.get("offload") == "all":
        return "weights on the host are not modelled"
    if given.get("kind") == "vit" and "patch" in given.get("shape", {}) and _named(figure) is None:
        return "a gated vision transformer is not described"
    if given.get("kind") != "cnn" and "seq_len" not in given and "image_size" not in given:
        return "the source does not say how long samples are"
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
    """Return the network's shape: a known one, or the family with these dimensions."""
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


def table() -> list[str]:
    """Return every figure beside its prediction as Markdown, and the errors of both halves."""
    gib = 2**30
    lines = [
        "| figure | counts | measured GiB | predicted GiB | error | inside | held out |",
        "|---|---|---|---|---|---|---|",
    ]
    found = [compare(figure) for figure in figures() if cannot(figure) is None]
    for one in found:
        inside = one.interval.low <= one.measured <= one.interval.high
        lines.append(
            f"| {one.id} | {one.measures} | {one.measured / gib:.2f} | {one.predicted / gib:.2f} | {one.error:+.0%} | "
            f"{'yes' if inside else 'no'} | {'yes' if one.held_out else ''} |"
        )
    lines.append("")
    for name, held in (("Tuned on", False), ("Held out", True)):
        part = [one for one in found if one.held_out is held]
        share = sum(one.interval.low <= one.measured <= one.interval.high for one in part) / len(part)
        median = statistics.median(abs(one.error) for one in part)
        lines.append(f"{name}: {len(part)} figures, median error {median:.1%}, {share:.0%} inside the interval.")
    left_out = [f"{figure['id']} ({why})" for figure in figures() if (why := cannot(figure)) is not None]
    return [*lines, "", f"Not put to it: {', '.join(left_out)}."]


def compare(figure: dict[str, Any]) -> Compared:
    """Return a figure beside its prediction."""
    given = figure["given"]
    shape = _shape(figure)
    answers: dict[str, Any] = {name: given[name] for name in SAME if given.get(name) is not None}
    answers["model"] = {"encoder": "transformer"}.get(given["kind"], given["kind"])
    if shape is None:
        answers["params"] = given["params"]
    else:
        answers |= {"shape": shape, "model": compiled_rules().memory_rules.networks.find_family(shape).model}
    answers.pop("seq_len" if answers["model"] in ("cnn", "vit") else "image_size", None)
    if answers["model"] == "cnn":
        answers.pop("attention", None)
    if answers.get("method", "full") != "full":
        answers["task"] = "finetune"
        answers["lora_targets"] = ",".join(given.get("lora_targets", ["all"]))
    answers["gradient_release"] = bool(given.get("gradient_release"))
    answers["offload"] = given.get("offload") == "optimizer"
    answers["loss"] = "chunked" if given.get("fused_loss") else "whole"
    if given.get("accumulation", 1) > 1:
        answers["batch_size"] = given["accumulation"] * given["micro_batch"] * given.get("gpus", 1)
    situation = complete_situation(compiled_rules(), answers)
    name = {"adam8bit": "adamw8bit"}.get(given.get("optimizer", "adamw"), given.get("optimizer", "adamw"))
    memory = estimator.estimate(compiled_rules().memory_rules, situation, compiled_rules().catalog.find_optimizer(name))
    assert memory.total is not None, figure["id"]
    assert memory.allocated is not None, figure["id"]
    assert memory.reserved is not None, figure["id"]
    assert memory.interval is not None, figure["id"]
    predicted = {"allocated": memory.allocated, "reserved": memory.reserved, "process": memory.total}
    off = memory.total - predicted[figure["measures"]]
    return Compared(
        figure["id"], bool(figure.get("held_out")), figure["measures"],
        round(figure["value"] * UNITS[figure["unit"]]), predicted[figure["measures"]],
        Interval(*(end - off for end in astuple(memory.interval))),
    )  # fmt: skip
