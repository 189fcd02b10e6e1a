"""A measurement without a parent: every rank that torchrun started takes the same options and the same steps.

    torchrun --nnodes 4 --nproc-per-node 8 ... -m optadvise.benchmark.worker adamw8bit --shard fsdp --json FILE

One optimizer for each start, so that the peaks are its own; `optadvise bench --merge` makes one result of several.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optadvise.core.errors import InputError, OptadviseError, nearest

if TYPE_CHECKING:
    from optadvise.benchmark.request import Request

_LEFT_OUT = (
    "advisor",
    "names",
    "recommendation",
    "control",
    "nproc",
    "require",
    "timeout",
    "optimizer_only",
    "compile",
)


def options(words: Sequence[str]) -> tuple[list[str], dict[str, Any], Path]:
    """Return the optimizers that were named, the options of `bench` by their names, and where the result goes.

    Args:
        words: What was typed.

    Raises:
        InputError: An option is not known or has no value, or there is no --json.
    """
    from optadvise.benchmark import request

    known = [name for name in inspect.signature(request.make).parameters if name not in _LEFT_OUT]
    names: list[str] = []
    told: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            names.append(word)
            continue
        flag, _, value = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name not in (*known, "json"):
            flags = [f"--{one.replace('_', '-')}" for one in (*known, "json")]
            raise InputError(f"{flag}: no option of a rank; {nearest(flag, flags)}")
        value = value or next(rest, "")
        if not value:
            raise InputError(f"{flag}: needs a value")
        told[name] = int(value) if name == "seed" and value.isdigit() else value
    if "json" not in told:
        raise InputError("--json FILE: say where the first rank writes the result")
    return names, told, Path(told.pop("json"))


def asked(words: Sequence[str], count: int) -> tuple[Request, Path]:
    """Return what is measured, and where the result goes.

    Args:
        words: What was typed.
        count: How many ranks there are.

    Raises:
        InputError: Something that was said is not accepted.
        CannotRunHereError: There is no such device.
    """
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.benchmark import request
    from optadvise.core.files import check_writable
    from optadvise.rulebase.catalog import load

    names, told, file = options(words)
    if len(names) != 1:
        raise InputError("name one optimizer: each start measures one, so that the peaks are its own")
    check_writable(file, "--json")
    return request.make(CompiledRules(load()), names, control="none", nproc=str(count), **told), file


def main(words: Sequence[str]) -> int:
    """Measure as one of the ranks; the first writes the result.

    Args:
        words: What was typed.
    """
    from optadvise.benchmark import results, worker
    from optadvise.benchmark.distributed.ranks import Ranks
    from optadvise.benchmark.environment import environment
    from optadvise.benchmark.runner import Record
    from optadvise.core.files import write_output

    count, first = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0") == "0"
    try:
        requested, file = asked(words, count)
    except OptadviseError as error:
        if first:
            print(f"optadvise: {error}", file=sys.stderr)
        return error.exit_code
    spec, (arm,) = requested.spec, requested.arms
    record = Record(arm, {}, [], {}, {})

    def answer(event: str, **told: Any) -> None:
        if event == "round":
            record.rounds.append(told["samples"])
        else:
            {"ready": record.counts, "done": record.end}[event].update(told)

    commands = iter([*[{"command": "round"}] * spec.rounds, {"command": "finish"}, {"command": "end"}])
    ranks = Ranks(spec.device) if "RANK" in os.environ else None
    code = 0
    try:
        worker.serve(spec, arm, lambda: next(commands), answer, ranks)
    except BaseException as error:  # whatever ends an arm is its result
        record.failure.update({name: value for name, value in worker.failure(error).items() if name != "event"})
        print(f"optadvise: rank {os.environ.get('RANK', '0')}: {record.failure['error']}", file=sys.stderr)
        code = 4
    if first:
        made = results.make(spec, [record], environment=environment(), complete=not code)
        write_output(file, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    if code:
        os._exit(code)  # the others may wait for this one for ever
    return 0
