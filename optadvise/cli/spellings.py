"""Other spellings of options: former names, names from other tools, and answers to options that do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError

_RUN_COMMANDS = ("recommend", "estimate")
_OUTPUT_COMMANDS = ("schedule",)  # their -o was a picture, and writes other files to --output
JSON_FILE_COMMANDS = ("bench", "compare", "sweep", "trajectories", "verify")  # their --json takes a file

# Option of a run -> options that replace it. The first group are names from other tools, the second single words.
_RUN_ALIASES: Mapping[str, Sequence[str]] = {
    "--batch": ["--batch-size"],
    "--bs": ["--batch-size"],
    "--global-batch-size": ["--batch-size"],
    "--micro-batch-size": ["--micro-batch"],
    "--per-device-train-batch-size": ["--micro-batch"],
    "--seqlen": ["--seq-len"],
    "--seq-length": ["--seq-len"],
    "--max-seq-length": ["--seq-len"],
    "--context-length": ["--seq-len"],
    "--num-gpus": ["--gpus"],
    "--ngpus": ["--gpus"],
    "--nproc": ["--gpus"],
    "--memory": ["--vram"],
    "--parameters": ["--params"],
    "--num-params": ["--params"],
    "--model-size": ["--params"],
    "--max-steps": ["--steps"],
    "--train-tokens": ["--tokens"],
    "--total-tokens": ["--tokens"],
    "--num-epochs": ["--epochs"],
    "--num-train-epochs": ["--epochs"],
    "--num-samples": ["--samples"],
    "--dataset-size": ["--samples"],
    "--gradient-accumulation": ["--grad-accum"],
    "--gradient-accumulation-steps": ["--grad-accum"],
    "--accumulation": ["--grad-accum"],
    "--scheduler": ["--schedule"],
    "--lr-scheduler": ["--schedule"],
    "--lr-scheduler-type": ["--schedule"],
    "--optim": ["--optimizer"],
    "--dtype": ["--precision"],
    "--rank": ["--lora-rank"],
    "--lora-r": ["--lora-rank"],
    "--attn-implementation": ["--attention"],
    "--fp16": ["--precision", "amp-fp16"],
    "--bf16": ["--precision", "amp-bf16"],
    "--fp32": ["--precision", "fp32"],
    "--gradient-checkpointing": ["--checkpointing", "full"],
    "--lora": ["--method", "lora"],
    "--qlora": ["--method", "qlora"],
    "--finetune": ["--task", "finetune"],
    "--fsdp": ["--shard", "zero3"],
    "--ddp": ["--shard", "none"],
}
_ALIASES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "recommend": _RUN_ALIASES,
    "estimate": {**_RUN_ALIASES, "--from": ["--workload"]},
    "list": {"--archs": ["--networks"], "--architectures": ["--networks"], "--models": ["--networks"]},
    "bench": {"--dtype": ["--precision"], "--batch": ["--batch-size"], "--bs": ["--batch-size"]},
    "schedule": {"--out": ["--plot"], "-o": ["--plot"]},
    "trajectories": {"--out": ["--plot"], "-o": ["--plot"]},
    "sweep": {"--out": ["--folder"]},
    "rules graph": {"--out": ["--plot"], "-o": ["--plot"]},
    "rules diff": {"--out": ["--output"]},
    "rules docs": {"--out": ["--output"]},
    "rules schema": {"--out": ["--output"]},
}
_BARE_VALUES = {"--checkpointing": "full"}  # option -> its value where none was typed
_LEARNING_RATE = "is computed; optadvise schedule NAME --lr 1e-3 shows a schedule with a given peak"
_HINTS: Mapping[str, str] = {
    "--lr": _LEARNING_RATE,
    "--learning-rate": _LEARNING_RATE,
    "--weight-decay": "is computed; the answer has its typical range",
    "--warmup": "is computed; optadvise schedule NAME --warmup 2% shows a schedule with a given warmup",
}
_GPU_OPTIONS = ("--gpus", "--gpu")
_GPUS = re.compile(r"(\d+)\s*[x×*]\s*(\S.*)", re.IGNORECASE)  # as in 8xH100


def normalize_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the spellings that the commands declare.

    Args:
        arguments: The arguments after the program's name.

    Raises:
        InputError: An option does not exist, but people often try it.

    Example:
        >>> normalize_arguments(["recommend", "--batch", "32", "--gpus", "8xH100"])
        ['recommend', '--batch-size', '32', '--gpus', '8', '--gpu', 'H100']
    """
    command = _find_command(arguments)
    return list(_normalize(command, arguments))


def _find_command(arguments: Sequence[str]) -> str:
    names = [argument for argument in arguments if not argument.startswith("-")][:2]
    return " ".join(names) if names[:1] == ["rules"] else (names or [""])[0]


def _normalize(command: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments; `--flag=value` is split where the value is rewritten."""
    aliases, is_run = _ALIASES.get(command, {}), command in _RUN_COMMANDS
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            yield from (argument, *remaining)
            return
        flag, equals, value = argument.partition("=") if argument.startswith("--") else (argument, "", "")
        flag = flag.lower().replace("_", "-") if argument.startswith("--") else flag
        if is_run and flag in _HINTS:
            raise InputError(f"{flag} {_HINTS[flag]}", code=ErrorCode.UNKNOWN_OPTION, option=flag)
        name, *values = aliases.get(flag, [flag])
        if equals and (name in ("--json", *_GPU_OPTIONS) or values):
            remaining.insert(0, value)
        is_bare = not remaining or (remaining[0].startswith("-") and remaining[0] != "-")
        if values:
            yield from (name, *values)
            _skip_true(flag, name, values, remaining, has_value=bool(equals))
        elif name in _GPU_OPTIONS and is_run and not is_bare:
            yield from _split_gpus(name, remaining.pop(0), arguments)
        elif name == "--json":
            yield from _place_json(command, remaining, arguments, is_bare=is_bare)
        elif flag == "-o" and name != flag and command in _OUTPUT_COMMANDS and not _is_picture(remaining):
            yield flag
        else:
            yield f"{name}={value}" if equals else name
            if is_bare and not equals and is_run and name in _BARE_VALUES:
                yield _BARE_VALUES[name]


def _skip_true(flag: str, name: str, values: Sequence[str], remaining: list[str], *, has_value: bool) -> None:
    """Remove the value of a flag of another tool, which may be true only, as in `--bf16 True`."""
    if remaining and remaining[0].lower() == "true":
        remaining.pop(0)
    elif has_value:
        message = f"{flag} does not accept the value {remaining[0]!r}; use {name} {' '.join(values)}"
        raise InputError(message, code=ErrorCode.INVALID_VALUE, option=flag, value=remaining[0])


def _is_picture(remaining: Sequence[str]) -> bool:
    return bool(remaining) and remaining[0].lower().endswith((".png", ".svg", ".pdf"))


def _split_gpus(name: str, value: str, arguments: Sequence[str]) -> Sequence[str]:
    """Return the options of `--gpus` or `--gpu`, whose value may have both the number and the name of the GPUs."""
    match = _GPUS.fullmatch(value.strip())
    if match is None:
        return [name, value]
    other, what, part = ("--gpu", "name a GPU", 1) if name == "--gpus" else ("--gpus", "give a number of GPUs", 2)
    if other in arguments:
        message = f"{name} {value} and {other} both {what}; use {name} {match[part]}"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option=other, value=value)
    return ["--gpus", match[1], "--gpu", match[2]]


def _place_json(command: str, remaining: list[str], arguments: Sequence[str], *, is_bare: bool) -> Sequence[str]:
    """Return the options of `--json`, which may have a file: alone it prints to stdout in every command.

    Args:
        command: The command.
        remaining: The arguments behind it; the file is removed.
        arguments: All arguments.
        is_bare: Whether an option or nothing follows.

    Raises:
        InputError: Another option names an output file, too.
    """
    if command in JSON_FILE_COMMANDS:
        return ["--json", "-"] if is_bare else ["--json", remaining.pop(0)]
    if not is_bare and remaining[0] == "-":
        remaining.pop(0)
    elif not is_bare and remaining[0].lower().endswith(".json"):
        file = remaining.pop(0)
        other = next((argument for argument in arguments if re.match("(--output|-o)(=|$)", argument)), None)
        if other is not None:
            message = f"--json {file} and {other.partition('=')[0]} both name an output file; use one of them"
            raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option="--json", value=file)
        return ["--json", "--output", file]
    return ["--json"]
