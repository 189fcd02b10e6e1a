"""Benchmark of one optimizer under torchrun, without a parent: all ranks run the same command line.

    torchrun --nnodes 4 --nproc-per-node 8 ... -m optadvise.benchmark.worker adamw8bit --shard fsdp --json FILE

Each launch measures one optimizer, so that its peak memory is independent; `optadvise bench --merge` combines results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, convert

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import arm_session
from optadvise.benchmark.device import find_gpu_uuids
from optadvise.benchmark.distributed.ranks import Ranks
from optadvise.benchmark.environment import MachineReading
from optadvise.benchmark.gpu_lock import hold_gpus
from optadvise.benchmark.measurement import ArmCommand, ArmMeasurement
from optadvise.benchmark.options import ALIASES, BenchOptions
from optadvise.benchmark.request import Request, prepare_request
from optadvise.benchmark.results import make_result
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, OptadviseError, suggest_name
from optadvise.core.files import check_writable, write_output
from optadvise.core.json_text import encode_json
from optadvise.rulebase.catalog import load

_NOT_FOR_RANKS = ("control", "nproc", "require", "timeout", "optimizer_only", "compile")
_LOCAL = (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))  # variables of torchrun on each machine, with defaults
_RANK_OPTIONS = tuple(name for name in BenchOptions.__struct_fields__ if name not in _NOT_FOR_RANKS)


class RankArguments(Struct, frozen=True):
    """Command line of a rank."""

    names: list[str]  # optimizers in any spelling
    options: BenchOptions
    file: Path  # where rank 0 writes the result


def parse_arguments(arguments: Sequence[str], nproc: int = 1) -> RankArguments:
    """Parse the command line of a rank.

    Raises:
        InputError: An option is unknown or has no value, or --json is missing.
    """
    names: list[str] = []
    values: dict[str, str | int] = {}
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--"):
            names.append(argument)
            continue
        flag, _, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        name = ALIASES.get(name, name)
        if name not in (*_RANK_OPTIONS, "json"):
            flags = [f"--{option.replace('_', '-')}" for option in (*_RANK_OPTIONS, "json")]
            raise InputError(
                f"{flag}: unknown option; {suggest_name(flag, flags)}", code=ErrorCode.UNKNOWN_OPTION, option=flag
            )
        value = value or next(remaining, "")
        if not value:
            raise InputError(f"{flag}: requires a value", code=ErrorCode.MISSING_OPTION, option=flag)
        values[name] = int(value) if name == "seed" and value.isdigit() else value
    if "json" not in values:
        message = "--json is missing; add --json FILE, which rank 0 writes the result to"
        raise InputError(message, code=ErrorCode.MISSING_OPTION, option="--json")
    file = Path(str(values.pop("json")))
    return RankArguments(
        names=names, options=convert({"control": "none", "nproc": str(nproc), **values}, BenchOptions), file=file
    )


def main(arguments: Sequence[str]) -> int:
    """Measure as one of the ranks and return the exit code; rank 0 writes the result."""
    world_size, is_first = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0") == "0"
    try:
        parsed = parse_arguments(arguments, world_size)
        request = _prepare(parsed)
    except OptadviseError as error:
        if is_first:
            print(f"optadvise: {error}", file=sys.stderr)
        return error.exit_code
    local_rank, processes = (int(os.environ.get(name, default)) for name, default in _LOCAL)
    # Waiting for a lock, the first rank of a machine holds up the others in their first communication.
    uuids = find_gpu_uuids(request.spec.device, processes) if local_rank == 0 else ()
    with hold_gpus(uuids):
        reading = MachineReading(uuids)
        measurement = _measure(request)
        reading.read_end([measurement], request.spec.rounds)
    if is_first:
        is_complete = measurement.failure is None
        result = make_result(request.spec, [measurement], machine=reading.machine, complete=is_complete)
        write_output(parsed.file, encode_json(result, indent=2))
    if measurement.failure is not None:
        os._exit(4)  # do not wait for the other ranks at exit
    return 0


def _prepare(parsed: RankArguments) -> Request:
    if len(parsed.names) != 1:
        raise InputError(
            f"{len(parsed.names)} optimizers: torchrun measures one optimizer per launch; use exactly one name",
            code=ErrorCode.INVALID_VALUE, value=" ".join(parsed.names),
        )  # fmt: skip
    check_writable(parsed.file, "--json")
    return prepare_request(CompiledRules(load()), parsed.names, parsed.options)


def _measure(request: Request) -> ArmMeasurement:
    """Measure the arm of a request on this rank; a failure is printed and stored."""
    (arm,) = request.arms
    measurement = ArmMeasurement(arm=arm)
    finish = ArmCommand("finish", measures_bandwidth=True)
    commands = iter([*[ArmCommand("round")] * request.spec.rounds, finish, ArmCommand("end")])
    ranks = Ranks(request.spec.device) if "RANK" in os.environ else None
    try:
        arm_session.serve(request.spec, arm, lambda: next(commands), measurement.record, ranks)
    except BaseException as error:  # every failure is the arm's result
        measurement.failure = arm_session.describe_failure(error)
        print(f"optadvise: rank {os.environ.get('RANK', '0')}: {measurement.failure.error}", file=sys.stderr)
    return measurement
