"""Options of `optadvise bench`, declared once: the command line, the library, sweeps and torchrun read them here."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, get_args, get_type_hints

from msgspec import Struct

from optadvise.benchmark.spec import DType, ModelSize, Sharding

WORKLOADS = ("transformer", "cnn", "mlp")  # built-in
MODEL_SIZES, DTYPES, SHARDINGS = (tuple(get_args(kind)) for kind in (ModelSize, DType, Sharding))
DEVICES = ("auto", "cpu", "cuda")
_RUNS, _MEASURED, _PROCESSES = "What runs", "How it is measured", "Several processes"


class Option(Struct, frozen=True):
    """Help of an option on the command line."""

    help: str
    group: str
    choices: tuple[str, ...] = ()  # that the shell offers
    catalog: str | None = None  # whose names the shell offers instead, such as optimizers


class BenchOptions(Struct, frozen=True, kw_only=True):
    """Options as they are typed; counts are text, such as 50M."""

    control: Annotated[
        str, Option("What to compare with; adamw unless said, none for nothing.", _RUNS, catalog="optimizers")
    ] = "adamw"
    implementation: Annotated[
        str | None,
        Option(
            "fused, foreach, for-loop, compiled, a package, or all; the fastest unless said.",
            _RUNS,
            ("fused", "foreach", "for-loop", "compiled", "all"),
        ),
    ] = None
    workload: Annotated[
        str,
        Option("transformer, cnn, mlp, or package.module:function returning a module and batches.", _RUNS, WORKLOADS),
    ] = "transformer"
    model_size: Annotated[str, Option("tiny, small or medium.", _RUNS, MODEL_SIZES)] = "tiny"
    params: Annotated[str | None, Option("Size of the network instead: 50M.", _RUNS)] = None
    batch_size: Annotated[str | None, Option("Samples per step.", _RUNS)] = None
    seq_len: Annotated[str | None, Option("Tokens per sample, for transformer.", _RUNS)] = None
    dtype: Annotated[str, Option("fp32, bf16, amp-bf16 or amp-fp16.", _RUNS, DTYPES)] = "fp32"
    device: Annotated[str, Option("cpu, cuda or auto.", _MEASURED, DEVICES)] = "auto"
    steps: Annotated[str, Option("Measured steps a round; 10 unless said.", _MEASURED)] = "10"
    rounds: Annotated[str, Option("Rounds, in turn between the optimizers; 7 unless said.", _MEASURED)] = "7"
    seed: Annotated[int, Option("Of weights and data.", _MEASURED)] = 0
    threads: Annotated[str | None, Option("Of torch on the CPU; all that it may use unless said.", _MEASURED)] = None
    compile: Annotated[bool, Option("Compile the network.", _RUNS)] = False
    optimizer_only: Annotated[bool, Option("Time step() alone on --params worth of shapes.", _RUNS)] = False
    nproc: Annotated[str, Option("Processes that train together, by torchrun; 1 unless said.", _PROCESSES)] = "1"
    shard: Annotated[
        str, Option("What they share out: none (DDP), zero1 (states) or fsdp (all).", _PROCESSES, SHARDINGS)
    ] = "none"
    require: Annotated[
        tuple[str, ...],
        Option("A gate: 'state_bytes_per_parameter <= 2.1', 'optimizer_seconds <= 1.3x'; may repeat.", _MEASURED),
    ] = ()
    timeout: Annotated[  # seconds
        float, Option("Seconds that one answer of a worker may take; 300 unless said.", _MEASURED)
    ] = 300.0


def option_types() -> Mapping[str, type]:
    """Return the type of every option by its name, optional ones without None."""
    return {
        name: next(kind for kind in (*get_args(hint), hint) if kind is not NoneType)
        for name, hint in get_type_hints(BenchOptions).items()
    }
