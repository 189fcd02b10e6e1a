"""Reader of sweep files: optimizers and options of `bench`, each a value or a list."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from msgspec import Struct

from optadvise.core.cards import Value
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError, suggest_name
from optadvise.core.foreign import ForeignFileError, read_bounded
from optadvise.core.yaml_reader import Context, list_pairs, make_list_reader, parse, read_text
from optadvise.core.yaml_records import decode_text, find_reader
from optadvise.core.yaml_types import Identifier, Plain

_MAX_CELLS = 10_000
_MAX_BYTES = 2**20
# Job parameters of submitit, but not those that run commands in the job.
_SLURM_PARAMETERS = (
    "account", "array_parallelism", "comment", "constraint", "cpus_per_gpu", "cpus_per_task", "dependency", "exclude",
    "exclusive", "gpus_per_node", "gpus_per_task", "gres", "job_name", "mail_type", "mail_user", "mem", "mem_per_cpu",
    "mem_per_gpu", "nodelist", "nodes", "ntasks_per_node", "partition", "qos", "signal_delay_s", "time", "use_srun",
)  # fmt: skip
_JOB_PARAMETERS = (
    "cpus_per_task", "gpus_per_node", "mem_gb", "name", "nodes", "tasks_per_node", "timeout_min",
    *(f"slurm_{name}" for name in _SLURM_PARAMETERS),
)  # fmt: skip


class Grid(Struct, frozen=True):
    """Content of a sweep file."""

    optimizers: list[str]  # in any spelling
    options: dict[str, list[str]]  # values of each option, as typed on the command line
    job_parameters: Mapping[str, Value]  # passed to submitit, which checks them


def _read_values(node: yaml.Node, context: Context) -> list[str]:
    """Read one value or a list, each as typed on the command line."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes:
        context.fail(node, "empty list; add a value or remove the key")
    return [read_text(each, context) for each in nodes]


def read_sweep(file: Path, options: Iterable[str]) -> Grid:
    """Read a sweep file.

    Args:
        options: Names of the accepted options, without dashes.

    Raises:
        InputError: The file cannot be read.
        RuleFileError: The file is invalid.
    """
    try:
        content = read_bounded(file, _MAX_BYTES)
    except ForeignFileError as error:
        message = f"{str(file)!r}: {error}; use a sweep file such as sweep.yaml"
        raise InputError(message, code=error.code, value=file) from error
    node, context = parse(decode_text(content, str(file)), str(file))
    grid = _read_grid(node, context, list(options))
    _check_grid(grid, str(file))
    return grid


def _read_grid(node: yaml.Node, context: Context, options: Sequence[str]) -> Grid:
    optimizers: list[str] = []
    values: dict[str, list[str]] = {}
    job_parameters: Mapping[str, Value] = {}
    accepted = ("optimizers", *options, "slurm")
    for key_node, key, value_node in list_pairs(node, context):
        if key == "optimizers":
            optimizers = make_list_reader(read_text, 1)(value_node, context)
        elif key == "slurm":
            job_parameters = _read_job_parameters(value_node, context)
        elif key in options:
            values[key] = _read_values(value_node, context)
        else:
            hint = suggest_name(key, accepted) or f"accepted: {', '.join(accepted)}"
            context.fail(key_node, f"unknown key {key!r}; {hint}", ErrorCode.UNKNOWN_KEY)
    if not optimizers:
        context.fail(node, "missing key: optimizers", ErrorCode.MISSING_KEY)
    return Grid(
        optimizers=optimizers,
        options={name: values[name] for name in options if name in values},
        job_parameters=job_parameters,
    )


def _read_job_parameters(node: yaml.Node, context: Context) -> Mapping[str, Value]:
    """Return the parameters of Slurm jobs; those that can run a command, such as slurm_setup, are not accepted."""
    for key_node, key, _ in list_pairs(node, context):
        if key not in _JOB_PARAMETERS:
            hint = suggest_name(key, _JOB_PARAMETERS) or "use one that runs no command, such as slurm_partition"
            context.fail(key_node, f"unknown job parameter {key!r}; {hint}", ErrorCode.UNKNOWN_KEY)
    parameters: Mapping[str, Value] = find_reader(Mapping[Identifier, Plain])(node, context)
    for _, key, value_node in list_pairs(node, context):
        value = parameters[key]
        if not isinstance(value, (str, int, float)) or (isinstance(value, str) and not value.isprintable()):
            message = f"{key} must be a number, true, false or text on one line"
            context.fail(value_node, message, ErrorCode.INVALID_VALUE)
    return parameters


def _check_grid(grid: Grid, file: str) -> None:
    """Reject grids with too many combinations, before anything is done for each, and duplicate values."""
    count = math.prod(map(len, (grid.optimizers, *grid.options.values())))
    if count > _MAX_CELLS:
        message = f"{count:,} combinations: must be at most {_MAX_CELLS:,}; remove values"
        raise RuleFileError(message, file, code=ErrorCode.OUT_OF_RANGE)
    for name, values in {"optimizers": grid.optimizers, **grid.options}.items():
        if (duplicate := find_duplicate(values)) is not None:
            message = f"{name}: {duplicate} is listed twice; remove one"
            raise RuleFileError(message, file, code=ErrorCode.DUPLICATE_ENTRY)


def find_duplicate(values: Sequence[str]) -> str | None:
    """Return the first value that occurs more than once; None if no value does."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
