"""Properties of answers: more needs more, two ways to describe a run agree, and text agrees with JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from random import Random
from typing import Any

import yaml
from msgspec import structs

from optadvise.rulebase.catalog import load
from tests import test_answers_hold
from tests.fuzz.cases import Case, Outcome
from tests.fuzz.checks import fail
from tests.fuzz.lines import commands
from tests.fuzz.sandbox import Sandbox

# Options with which a run needs more memory, where nothing is chosen by the memory that is available.
_SIZES = {"--params": ["1M", "124M", "1.5B", "7B", "70B"], "--seq-len": ["128", "1024", "2048", "8192"],
          "--micro-batch": ["1", "2", "4", "8"], "--image-size": ["64", "224", "512"], "--layers": ["2", "12", "32"],
          "--vocab": ["1000", "32000", "128256"], "--lora-rank": ["4", "16", "64"], "--hidden": ["256", "1024"],
          "--ffn": ["512", "4096"]}  # fmt: skip
_MEMORY = ["8GB", "12GB", "16GB", "24GB", "40GB", "80GB", "141GB"]
_FACTORS = ["1.01", "1.5", "2", "3", "10"]
_TEXT_NETWORKS = ["llama-3.1-8b", "bert-base", "gpt2", "t5-base", "mixtral-8x7b"]
_IMAGE_NETWORKS = ["resnet50", "vit-base", "convnext-tiny"]
_KINDS = {"params": ["--params", "--micro-batch"], "text": ["--seq-len", "--micro-batch"],
          "image": ["--image-size", "--micro-batch"],
          "shape": ["--hidden", "--layers", "--ffn", "--vocab", "--seq-len", "--micro-batch"]}  # fmt: skip
_ALWAYS = {"params": 1, "shape": 4}  # how many of the sizes a kind of network requires


@functools.cache
def _choices() -> list[tuple[str, str]]:
    """Return the options of estimate with fixed choices that fit every network, and their values."""
    return [
        (parameter.opts[0], value)
        for parameter in commands()[("estimate",)]
        if "|" in (parameter.metavar or "") and parameter.opts[0] not in ("--model", "--method", "--shard")
        for value in parameter.metavar.strip("[]").split("|")
    ]


def _make_run(rng: Random) -> tuple[str, ...]:
    """Draw options of a run without the size of the memory."""
    kind = rng.choice(sorted(_KINDS))
    options: dict[str, str] = dict(rng.sample(_choices(), rng.randint(0, 3)))
    sizes = _KINDS[kind]
    for number, flag in enumerate(sizes):
        if number < _ALWAYS.get(kind, 0) or rng.randrange(2):
            options[flag] = rng.choice(_SIZES[flag])
    if kind == "shape":
        options["--heads"] = "16"
    elif kind == "params" and rng.randrange(2):
        options["--model"] = rng.choice(["transformer", "cnn", "vit", "gan", "rnn", "diffusion"])
    elif kind != "params":
        options["--arch"] = rng.choice(_TEXT_NETWORKS if kind == "text" else _IMAGE_NETWORKS)
    if rng.randrange(4) == 0:
        options |= {"--task": "finetune", "--method": rng.choice(["lora", "qlora"])}
        options["--lora-rank"] = rng.choice(_SIZES["--lora-rank"])
    if rng.randrange(2):
        options["--optimizer"] = rng.choice(["adamw", "adamw8bit", "lion", "sgd", "adafactor", "muon"])
    if rng.randrange(2):
        options["--gpus"] = rng.choice(["2", "8"])
        options["--shard"] = rng.choice(["none", "zero1", "zero2", "zero3"])
    flags = rng.sample(["--clipping", "--offload", "--gradient-release"], rng.randint(0, 1))
    return (*(word for pair in options.items() for word in pair), *flags)


# -- more needs more --------------------------------------------------------------------------------------------------


def growing(rng: Random) -> Case:
    """Draw an estimate; `check_growth` repeats it with each size increased by the factor in stdin."""
    return Case(arguments=("estimate", *_make_run(rng), "--json"), stdin=rng.choice(_FACTORS).encode())


def check_growth(case: Case, outcome: Outcome, sandbox: Sandbox) -> None:
    """A larger size never needs less memory at either end of the interval, in total and for any optimizer."""
    if outcome.code != 0:
        return
    before = _list_needs(json.loads(outcome.out))
    for flag in _SIZES:
        if flag not in case.arguments:
            continue
        bigger = _scale(case, flag, float(case.stdin))
        after = sandbox.run(bigger)
        if after.code != 0:
            continue
        needs = _list_needs(json.loads(after.out))
        less = [
            f"{name}: {value:,} to {needs[name]:,}" for name, value in before.items() if needs.get(name, value) < value
        ]
        if less:
            fail(f"larger {flag} needs less", bigger, structs.replace(after, err=f"{case}: {'; '.join(less[:5])}"))


def _scale(case: Case, flag: str, factor: float) -> Case:
    """Return a case with a larger value of an option; whole numbers are rounded up."""
    words = list(case.arguments)
    place = words.index(flag) + 1
    units = {"M": 10**6, "B": 10**9}
    text = words[place]
    value = float(text.rstrip("MB")) * units.get(text[-1], 1)
    words[place] = str(max(int(value) + 1, int(value * factor)))
    return structs.replace(case, arguments=tuple(words))


@functools.cache
def _list_falling() -> frozenset[str]:
    """Return the optimizers whose state ends where a tensor becomes too long for a square matrix."""
    catalog = load()
    cards = map(catalog.optimizer, catalog.optimizer_ids)
    return frozenset(card.id for card in cards if any(tensor.max_side is not None for tensor in card.state))


def _list_needs(data: dict[str, Any]) -> dict[str, float]:
    """Return the figures that may not decrease by name."""
    interval = (data["memory"]["interval"] or {}).get("total_bytes") or {}
    needs = {"low": interval.get("low"), "high": interval.get("high"), "total": data["memory"]["total_bytes"]}
    needs |= {one["id"]: one["total_bytes"] for one in data["optimizers"] if one["id"] not in _list_falling()}
    return {name: value for name, value in needs.items() if value is not None}


def with_memory(rng: Random) -> Case:
    """Draw an estimate with a memory size; `check_memory` repeats it with more."""
    return Case(arguments=("estimate", *_make_run(rng), "--vram", rng.choice(_MEMORY), "--json"))


def check_memory(case: Case, outcome: Outcome, sandbox: Sandbox) -> None:
    """More memory never loses a fit, for any optimizer."""
    if outcome.code != 0:
        return
    before, place = _list_fits(json.loads(outcome.out)), case.arguments.index("--vram") + 1
    for memory in _MEMORY[_MEMORY.index(case.arguments[place]) + 1 :]:
        words = (*case.arguments[:place], memory, *case.arguments[place + 1 :])
        bigger = structs.replace(case, arguments=words)
        after = sandbox.run(bigger)
        if after.code != 0:
            fail("more memory is rejected", bigger, after)
        fits = _list_fits(json.loads(after.out))
        lost = [name for name, value in before.items() if fits.get(name, value) < value]
        if lost:
            fail("more memory loses a fit", bigger, structs.replace(after, err=f"{case}: {lost}"))
        before = fits


def _list_fits(data: dict[str, Any]) -> dict[str, int]:
    order = {False: 0, None: 1, True: 2}
    return {"": order[data["memory"]["fits"]], **{one["id"]: order[one["fits"]] for one in data["optimizers"]}}


# -- agreement --------------------------------------------------------------------------------------------------------


@functools.cache
def _gpus() -> Sequence[dict[str, Any]]:
    from optadvise.rulebase.catalog import load_shipped

    return [{"id": gpu.id, "bytes": int(gpu.memory_gib * 2**30), "bf16": gpu.bf16, "vendor": gpu.vendor}
            for gpu in load_shipped().gpus]  # fmt: skip


def with_gpu(rng: Random) -> Case:
    """Draw a recommendation for a GPU; `check_gpu` repeats it with its memory."""
    gpu = rng.choice([one["id"] for one in _gpus() if one["bf16"] and one["vendor"] == "nvidia"])
    return Case(arguments=("recommend", *_make_run(rng), "--gpu", gpu, "--json"))


def check_gpu(case: Case, outcome: Outcome, sandbox: Sandbox) -> None:
    """--gpu and --vram with its memory give one answer."""
    place = case.arguments.index("--gpu")
    size = next(one["bytes"] for one in _gpus() if one["id"] == case.arguments[place + 1])
    words = (*case.arguments[:place], "--vram", f"{size / 2**20:g}MiB", *case.arguments[place + 2 :])
    other = sandbox.run(structs.replace(case, arguments=words))
    if outcome.code != other.code:
        fail(f"--vram exits with {other.code}, --gpu with {outcome.code}", case, other)
    if outcome.code == 0:
        first, second = json.loads(outcome.out), json.loads(other.out)
        for key in ("optimizer", "scheduler", "hyperparameters", "memory", "alternatives"):
            if first[key] != second[key]:
                fail(
                    f"--gpu and --vram differ in {key}",
                    case,
                    structs.replace(other, err=shorten(first[key], second[key])),
                )


def shorten(first: object, second: object) -> str:
    """Return the first difference of two values as text."""
    pair = (json.dumps(first), json.dumps(second))
    start = next((n for n, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), 0)
    return " | ".join(text[max(0, start - 60) : start + 100] for text in pair)


def recommended(rng: Random) -> Case:
    """Draw a recommendation; `check_formats` prints it in other formats."""
    memory = rng.choice([(), ("--vram", "24GB"), ("--vram", "8GB")])
    return Case(arguments=("recommend", *_make_run(rng), *memory, "--json"))


def check_formats(case: Case, outcome: Outcome, sandbox: Sandbox) -> None:
    """Every format names the optimizer of the JSON, and YAML has the same content."""
    if outcome.code != 0:
        return
    data = json.loads(outcome.out)
    for name, format_ in (("text", _names_first), ("yaml", _is_equal), ("markdown", _names_first)):
        other = structs.replace(case, arguments=(*case.arguments[:-1], "--format", name))
        shown = sandbox.run(other)
        if shown.code != 0 or not format_(data, shown.out):
            fail(f"--format {name} disagrees with --json", other, shown)


def _names_first(data: dict[str, Any], text: str) -> bool:
    """Return whether the first lines name the optimizer and no other one."""
    return data["optimizer"]["name"] in "\n".join(text.splitlines()[:3])


def _is_equal(data: dict[str, Any], text: str) -> bool:
    return bool(yaml.safe_load(text) == data)


# -- printed changes --------------------------------------------------------------------------------------------------


def make_answer(rng: Random) -> Case:
    """Return a recommendation; `check_answer` runs what its page and the page of the estimate print."""
    return Case(arguments=("recommend", *test_answers_hold.draw(rng.randrange(10**9))))


def check_answer(case: Case, outcome: Outcome, sandbox: Sandbox) -> None:
    """Changes, alternatives, fixes and largest inputs hold when they are run as printed."""
    try:
        test_answers_hold.check_recommendation(case.arguments[1:])
    except AssertionError as error:
        fail("something printed does not hold", case, structs.replace(outcome, err=str(error)[:1000]))


PROPERTIES: Sequence[tuple[str, Any, Any]] = (
    ("larger runs", growing, check_growth), ("more memory", with_memory, check_memory),
    ("--gpu and --vram", with_gpu, check_gpu), ("formats", recommended, check_formats),
    ("printed changes", make_answer, check_answer),
)  # fmt: skip
