"""A measurement as it is asked for: what is said checked, arms made of it, and all of them measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import plan
from optadvise.benchmark.spec import Arm, Spec
from optadvise.benchmark.statistics import Requirement, parse_requirement
from optadvise.core.errors import CannotRunHereError, InputError, nearest
from optadvise.core.signals import interrupt_on_sigterm
from optadvise.core.units import parse_count

SIZES = ("tiny", "small", "medium")
DTYPES = ("fp32", "bf16", "amp-bf16", "amp-fp16")
SHARDS = ("none", "zero1", "fsdp")


class Request(Struct, frozen=True):
    """What is measured, ready to start."""

    spec: Spec
    arms: tuple[Arm, ...]
    requirements: tuple[Requirement, ...]
    timeout: float  # seconds that one answer of a worker may take


class InterruptedMeasurement(KeyboardInterrupt):
    """Somebody stopped a measurement."""

    def __init__(self, result: dict[str, Any]) -> None:
        """Keep what was measured so far."""
        super().__init__()
        self.result = result


def make(
    advisor: CompiledRules,
    names: Sequence[str],
    recommendation: Mapping[str, Any] | None = None,
    *,
    control: str = "adamw",
    implementation: str | None = None,
    workload: str = "transformer",
    model_size: str = "tiny",
    params: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    dtype: str = "fp32",
    device: str = "auto",
    steps: str = "10",
    rounds: str = "7",
    seed: int = 0,
    threads: str | None = None,
    compile: bool = False,
    optimizer_only: bool = False,
    nproc: str = "1",
    shard: str = "none",
    require: Sequence[str] = (),
    timeout: float = 300.0,
) -> Request:
    """Check what is said and make arms of it. The arguments are the options of `optadvise bench`.

    Args:
        advisor: The rules.
        names: Optimizers in any spelling.
        recommendation: What `recommend --json` printed, instead of names.
        control: What to compare with; none for nothing.
        implementation: fused, foreach, for-loop, compiled, a package, or all.
        workload: transformer, cnn, mlp, or package.module:function.
        model_size: tiny, small or medium.
        params: Size of the network instead.
        batch_size: Samples per step.
        seq_len: Tokens per sample.
        dtype: fp32, bf16, amp-bf16 or amp-fp16.
        device: cpu, cuda or auto.
        steps: Measured steps a round.
        rounds: Rounds, in turn between the optimizers.
        seed: Of weights and data.
        threads: Of torch on the CPU.
        compile: Compile the network.
        optimizer_only: Time step() alone on `params` worth of shapes.
        nproc: Processes that train together, each with a share of the batch.
        shard: What they share out: none (DDP), zero1 or fsdp.
        require: Gates, such as `optimizer_seconds <= 1.3x`.
        timeout: Seconds that one answer of a worker may take.

    Raises:
        InputError: Something that was said is not accepted.
        CannotRunHereError: There is no such device, or no torch.
    """
    requirements = tuple(parse_requirement(text) for text in require)
    spec = Spec(
        workload=workload,
        user=":" in workload,
        size=_one_of(model_size, "--model-size", SIZES),
        params=None if params is None else parse_count(params, "--params"),
        batch_size=None if batch_size is None else parse_count(batch_size, "--batch-size"),
        seq_len=None if seq_len is None else parse_count(seq_len, "--seq-len"),
        dtype=_one_of(dtype, "--dtype", DTYPES),
        device=_device(device),
        steps=parse_count(steps, "--steps"),
        rounds=parse_count(rounds, "--rounds"),
        seed=seed,
        threads=None if threads is None else parse_count(threads, "--threads"),
        compile=compile,
        optimizer_only=optimizer_only,
        nproc=parse_count(nproc, "--nproc"),
        shard=_one_of(shard, "--shard", SHARDS),
    )
    _check_ranks(spec)
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed {seed}: must be at least 0 and below 2^63")
    if not timeout > 0:
        raise InputError(f"--timeout {timeout:g}: must be above 0 seconds")
    arms = _arms(advisor, names, recommendation, spec, control, implementation)
    return Request(spec, tuple(arms), requirements, timeout)


def _check_ranks(spec: Spec) -> None:
    """Refuse what several processes cannot do."""
    if spec.nproc == 1:
        if spec.shard != "none":
            raise InputError(f"--shard {spec.shard}: one process has nobody to share with; say --nproc 2")
        return
    if ":" in spec.device:
        raise InputError(f"--device {spec.device}: each process takes a GPU of its own; say --device cuda")
    for flag, said in (("--optimizer-only", spec.optimizer_only), ("--compile", spec.compile)):
        if said:
            raise InputError(f"{flag}: measures one process; leave --nproc out")
    if spec.batch_size is not None and spec.batch_size % spec.nproc:
        raise InputError(f"--batch-size {spec.batch_size}: {spec.nproc} processes cannot share it evenly")


def _arms(
    advisor: CompiledRules,
    names: Sequence[str],
    recommendation: Mapping[str, Any] | None,
    spec: Spec,
    control: str,
    implementation: str | None,
) -> list[Arm]:
    if spec.workload not in plan.workload_names() and not spec.user:
        accepted = (*plan.workload_names(), "package.module:function")
        raise InputError(f"--workload {spec.workload!r}: not known; {nearest(spec.workload, accepted)}")
    against = None if control == "none" else advisor.catalog.find_optimizer(control, "--control")
    if recommendation is not None:
        if implementation is not None:
            raise InputError("--implementation: a recommendation names its own; leave it out")
        if [name for name in names if name != "-"]:
            raise InputError("--from: it names the optimizer already; leave the others out")
        return plan.from_recommendation(advisor, recommendation, spec, control=against)
    if not names:
        raise InputError(
            "bench: name at least one optimizer, as in optadvise bench adamw8bit; optadvise list shows all"
        )
    ids = [advisor.catalog.find_optimizer(name, "bench") for name in names]
    return plan.arms(advisor, ids, spec, control=against, implementation=implementation)


def measure(
    request: Request,
    *,
    progress: Callable[..., None] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure, and return the result as `bench --json` prints it.

    Args:
        request: What to measure.
        progress: Is told of every round.
        keep: Is given what there is after every round.

    Raises:
        InterruptedMeasurement: Ctrl-C or SIGTERM; it carries what was measured so far, and no worker is left.
    """
    from optadvise.benchmark import results, runner
    from optadvise.benchmark.distributed import arm
    from optadvise.benchmark.environment import environment

    about = environment()
    last: list[Any] = []

    def made(records: Sequence[Any], *, complete: bool) -> dict[str, Any]:
        return results.make(request.spec, records, request.requirements, environment=about, complete=complete)

    def save(records: Sequence[Any]) -> None:
        last[:] = records
        if keep is not None:
            keep(made(records, complete=False))

    kind = runner.WorkerArm if request.spec.nproc == 1 else arm.RankedArm
    workers = [kind(request.spec, arm, timeout=request.timeout) for arm in request.arms]
    try:
        with interrupt_on_sigterm():
            records = runner.run(workers, request.spec.rounds, progress=progress or _silent, save=save)
    except KeyboardInterrupt:
        raise InterruptedMeasurement(made(last, complete=False)) from None
    return made(records, complete=True)


def _silent(*_: Any) -> None:
    """Tell nobody."""


def _one_of(value: str, flag: str, accepted: Sequence[str]) -> str:
    if value not in accepted:
        raise InputError(f"{flag} {value!r}: not known; {nearest(value, accepted)}")
    return value


def _device(wanted: str) -> str:
    """Return the device to measure on, as far as it can be told without importing torch.

    Raises:
        InputError: It is no kind of device that is measured.
        CannotRunHereError: CUDA was asked for and torch is built without it.
    """
    if wanted.split(":")[0] not in ("cpu", "cuda", "auto"):
        raise InputError(f"--device {wanted!r}: not known; {nearest(wanted, ('cpu', 'cuda', 'auto'))}")
    from importlib.metadata import PackageNotFoundError, version

    from optadvise.core.hardware import gpu_here

    try:
        built = version("torch")
    except PackageNotFoundError as error:
        raise CannotRunHereError("bench: torch is not installed; pip install torch") from error
    if wanted.startswith("cuda") and "+cpu" in built:
        raise CannotRunHereError(f"--device {wanted}: torch {built} is built without CUDA; see optadvise doctor")
    if wanted != "auto":
        return wanted
    try:
        gpu_here()
    except CannotRunHereError:
        return "cpu"
    return "cpu" if "+cpu" in built else "cuda"
