"""Options of `optadvise bench`, shared by the command line, the library, sweeps and torchrun."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Annotated, get_args, get_type_hints

from msgspec import Struct

from optadvise.benchmark.defaults import CONTROL, PRECISION, SIZES, WORKLOAD
from optadvise.benchmark.spec import DType, ModelSize, Sharding

WORKLOADS = tuple(SIZES)  # built-in
MODEL_SIZES, DTYPES, SHARDINGS = (tuple(get_args(kind)) for kind in (ModelSize, DType, Sharding))
AUTO = "auto"
ALIASES: Mapping[str, str] = {"dtype": "precision"}  # former names, which sweep files and the library still accept
DEVICES = ("auto", "cpu", "cuda", "mps")
_TRAINING, _MEASUREMENT, _PROCESSES = "Training", "Measurement", "Processes"


TENSOR_SIZES = "the cost of an optimizer depends on the sizes of the tensors, not on the kind of model"
_BINARY = "K is 1024 after a power of two (8K: 8,192), otherwise 1000."


class Option(Struct, frozen=True):
    """Help of an option on the command line."""

    help: str
    group: str
    choices: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()  # other spellings of choices, each with its choice
    is_open: bool = False  # other values than the choices are accepted
    max_count: int | None = None  # for a number such as 50M or 8K; None for other options
    is_binary: bool = False  # whether K is 1024 after a power of two
    metavar: str | None = None  # placeholder of the value
    catalog: str | None = None  # kind of catalog entries to complete, such as optimizers


def _count(help_: str, group: str, max_count: int, *, is_binary: bool = False) -> Option:
    return Option(help_, group, max_count=max_count, is_binary=is_binary)


class BenchOptions(Struct, frozen=True, kw_only=True):
    """Options as typed on the command line; counts are text such as 50M."""

    control: Annotated[
        str, Option("Optimizer to compare with, or none (default: adamw).", _TRAINING, catalog="optimizers")
    ] = CONTROL
    implementation: Annotated[
        str | None,
        Option(
            help="fused, foreach, for-loop, compiled, a package name, or all (default: the fastest).", group=_TRAINING,
            choices=("fused", "foreach", "for-loop", "compiled", "all"), is_open=True,
        ),
    ] = None  # fmt: skip
    workload: Annotated[
        str,
        Option(
            help="transformer (default), cnn, mlp, or package.module:function that returns (module, batches[, loss]).",
            group=_TRAINING, choices=WORKLOADS, is_open=True,
        ),
    ] = WORKLOAD  # fmt: skip
    model_size: Annotated[
        str,
        Option(
            help="Parameters of the model: about 1M (tiny), 10M (small) or 50M to 85M (medium); auto is tiny on a CPU, "
            "and on a GPU the size that AdamW updates in 5 ms (default: auto).",
            group=_TRAINING, choices=(AUTO, *MODEL_SIZES),
        ),
    ] = AUTO  # fmt: skip
    params: Annotated[
        str | None, _count("Number of parameters, such as 50M; replaces --model-size.", _TRAINING, 10**12)
    ] = None
    batch_size: Annotated[str | None, _count(f"Samples per step; {_BINARY}", _TRAINING, 10**7, is_binary=True)] = None
    seq_len: Annotated[
        str | None,
        _count(f"Tokens per sample, only for --workload transformer; {_BINARY}", _TRAINING, 10**8, is_binary=True),
    ] = None
    precision: Annotated[
        str,
        Option(
            help="Number format; amp: fp32 weights, 16-bit matrix products (default: fp32).",
            group=_TRAINING,
            choices=DTYPES,
        ),
    ] = PRECISION
    device: Annotated[
        str,
        Option(
            help="Device to measure on, such as cuda or cuda:1; rocm is an alias of cuda (default: auto).",
            group=_MEASUREMENT, choices=DEVICES, is_open=True, aliases=(("rocm", "cuda"),),
        ),
    ] = "auto"  # fmt: skip
    steps: Annotated[str, _count("Measured steps per round (default: 10).", _MEASUREMENT, 10**6)] = "10"
    rounds: Annotated[str, _count("Rounds; optimizers alternate within a round (default: 7).", _MEASUREMENT, 10**4)] = (
        "7"
    )
    seed: Annotated[int, Option("Seed of weights and data (default: 0).", _MEASUREMENT)] = 0
    threads: Annotated[str | None, _count("CPU threads of torch (default: all cores).", _MEASUREMENT, 1024)] = None
    compile: Annotated[bool, Option("Compile the model with torch.compile.", _TRAINING)] = False
    optimizer_only: Annotated[
        bool, Option("Time step() alone, on --params parameters with random gradients.", _TRAINING)
    ] = False
    nproc: Annotated[str, _count("Number of processes, started with torchrun (default: 1).", _PROCESSES, 1024)] = "1"
    shard: Annotated[
        str,
        Option(
            help="Shard nothing (none: DDP), optimizer state (zero1) or all (fsdp, alias zero3) (default: none).",
            group=_PROCESSES, choices=SHARDINGS, aliases=(("ddp", "none"), ("zero3", "fsdp")),
        ),
    ] = "none"  # fmt: skip
    require: Annotated[
        tuple[str, ...],
        Option(
            "Requirement such as 'state_bytes_per_parameter <= 2.1' or 'optimizer_seconds <= 1.3x' (x: times the "
            "control); repeatable. Metrics: state_bytes_per_parameter, state_bytes, peak_memory, step_seconds, "
            "optimizer_seconds, forward_seconds, backward_seconds, throughput, first_step_seconds, "
            "bandwidth_fraction, loss_last.",
            _MEASUREMENT,
        ),
    ] = ()
    max_time: Annotated[  # seconds
        float,
        Option(
            "With --require on a time: seconds after --rounds in which more rounds are measured until the noise is "
            "small enough for a verdict (default: 120; 0: no more rounds).",
            _MEASUREMENT,
        ),
    ] = 120.0
    timeout: Annotated[  # seconds
        float, Option("Seconds to wait for each response of a worker process (default: 300).", _MEASUREMENT)
    ] = 300.0


def resolve_alias(name: str, value: str) -> str:
    """Return the choice that a value of an option stands for.

    Example:
        >>> resolve_alias("shard", "zero3"), resolve_alias("shard", "zero1")
        ('fsdp', 'zero1')
    """
    aliases: Mapping[str, str] = dict(_options()[name].aliases)
    return aliases.get(value, value)


def list_counts() -> dict[str, int]:
    """Return the largest value of each option whose value is a number such as 50M."""
    return {name: option.max_count for name, option in _options().items() if option.max_count is not None}


def is_binary(name: str) -> bool:
    """Return whether K is 1024 after a power of two in the value of an option, as in `recommend`."""
    return _options()[name].is_binary


@cache
def _options() -> dict[str, Option]:
    hints = get_type_hints(BenchOptions, include_extras=True)
    return {name: get_args(hint)[1] for name, hint in hints.items()}


@cache
def option_types() -> Mapping[str, type]:
    """Return the type of each option by name, without None."""
    return {
        name: next(kind for kind in (*get_args(hint), hint) if kind is not NoneType)
        for name, hint in get_type_hints(BenchOptions).items()
    }
