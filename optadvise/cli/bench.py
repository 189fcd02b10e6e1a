"""`optadvise bench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import among, of
from optadvise.core.errors import InputError
from optadvise.core.signals import interrupt_on_sigterm

_SIZES = ("tiny", "small", "medium")
_DTYPES = ("fp32", "bf16", "amp-bf16", "amp-fp16")
_SHOWN = ("json_", "csv_", "markdown", "dashboard", "report", "plot", "save")  # where a result goes
if TYPE_CHECKING:
    from optadvise.benchmark.request import Request
    from optadvise.rulebase.catalog import Catalog

_VERDICT_CODES = {"fail": 1, "inconclusive": 5}


_HOW, _OUT, _MANY = "How it is measured", "Output", "Several processes"


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Optimizers; - reads a recommendation's JSON.", autocompletion=of("optimizers")),
    ] = None,
    from_: Annotated[
        Path | None, opt.option("Run exactly this recommendation (JSON).", "--from", group="What runs")
    ] = None,
    control: Annotated[
        str,
        opt.option(
            "What to compare with; adamw unless said, none for nothing.", group="What runs", words=of("optimizers")
        ),
    ] = "adamw",
    implementation: Annotated[
        str | None,
        opt.option(
            "fused, foreach, for-loop, compiled, a package, or all; the fastest unless said.",
            group="What runs",
            words=among(("fused", "foreach", "for-loop", "compiled", "all")),
        ),
    ] = None,
    workload: Annotated[
        str,
        opt.option(
            "transformer, cnn, mlp, or package.module:function returning a module and batches.",
            group="What runs",
            words=among(("transformer", "cnn", "mlp")),
        ),
    ] = "transformer",
    model_size: Annotated[
        str, opt.option("tiny, small or medium.", group="What runs", words=among(("tiny", "small", "medium")))
    ] = "tiny",
    params: Annotated[str | None, opt.option("Size of the network instead: 50M.", group="What runs")] = None,
    batch_size: Annotated[str | None, opt.option("Samples per step.", group="What runs")] = None,
    seq_len: Annotated[str | None, opt.option("Tokens per sample, for transformer.", group="What runs")] = None,
    dtype: Annotated[
        str,
        opt.option(
            "fp32, bf16, amp-bf16 or amp-fp16.",
            group="What runs",
            words=among(("fp32", "bf16", "amp-bf16", "amp-fp16")),
        ),
    ] = "fp32",
    device: Annotated[str, opt.option("cpu, cuda or auto.", group=_HOW, words=among(("auto", "cpu", "cuda")))] = "auto",
    steps: Annotated[str, opt.option("Measured steps a round; 10 unless said.", group=_HOW)] = "10",
    rounds: Annotated[str, opt.option("Rounds, in turn between the optimizers; 7 unless said.", group=_HOW)] = "7",
    seed: Annotated[int, opt.option("Of weights and data.", group=_HOW)] = 0,
    threads: Annotated[
        str | None, opt.option("Of torch on the CPU; all that it may use unless said.", group=_HOW)
    ] = None,
    compile_: Annotated[bool, opt.option("Compile the network.", "--compile", group="What runs")] = False,
    optimizer_only: Annotated[
        bool, opt.option("Time step() alone on --params worth of shapes.", "--optimizer-only", group="What runs")
    ] = False,
    nproc: Annotated[str, opt.option("Processes that train together, by torchrun; 1 unless said.", group=_MANY)] = "1",
    shard: Annotated[
        str,
        opt.option(
            "What they share out: none (DDP), zero1 (states) or fsdp (all).",
            group=_MANY,
            words=among(("none", "zero1", "fsdp")),
        ),
    ] = "none",
    merge: Annotated[
        bool,
        opt.option(
            "The names are result files of ranks that torchrun started: make one of them.", "--merge", group=_MANY
        ),
    ] = False,
    require: Annotated[
        list[str] | None,
        opt.option("A gate: 'state_bytes_per_parameter <= 2.1', 'optimizer_seconds <= 1.3x'; may repeat.", group=_HOW),
    ] = None,
    json_: Annotated[str | None, opt.option("Write JSON to this file; - for stdout.", "--json", group=_OUT)] = None,
    csv_: Annotated[Path | None, opt.option("Write CSV to this file.", "--csv", group=_OUT)] = None,
    markdown: Annotated[Path | None, opt.option("Write a Markdown table to this file.", group=_OUT)] = None,
    dashboard: Annotated[
        Path | None, opt.option("Write what github-action-benchmark reads to this file.", group=_OUT)
    ] = None,
    report: Annotated[Path | None, opt.option("Write a page of HTML to this file.", "--report", group=_OUT)] = None,
    plot: Annotated[Path | None, opt.option("Draw memory against speed: cost.png, .svg or .pdf.", group=_OUT)] = None,
    save: Annotated[
        str | None, opt.option("Keep the result under this name, for optadvise compare.", group=_OUT)
    ] = None,
    timeout: Annotated[
        float, opt.option("Seconds that one answer of a worker may take; 300 unless said.", group=_HOW)
    ] = 300.0,
    rules: Annotated[
        list[Path] | None, opt.option("A folder of further rules; may repeat.", "--rules", group=_OUT)
    ] = None,
) -> None:
    """Measure what optimizers cost here: time, memory and loss on a small network, against a control.

    Each runs in a process of its own, in rounds that alternate. Exit code 1: a requirement failed; 4: nothing could
    run; 5: the noise is larger than the question.
    """
    typed = dict(locals())
    from optadvise.benchmark import request
    from optadvise.benchmark.saved_results import prepare_saved_result
    from optadvise.cli import outputs
    from optadvise.core.files import write_output
    from optadvise.evidence import store
    from optadvise.rule_analysis import rule_folders

    advisor = rule_folders.advisor(rules)
    if merge and require:
        raise InputError("--require: judges what is measured; optadvise compare judges files")
    requested = None if merge else request.make(
        advisor,
        names or [],
        None if from_ is None and names != ["-"] else _recommendation(from_),
        control=control, implementation=implementation, workload=workload, model_size=model_size, params=params,
        batch_size=batch_size, seq_len=seq_len, dtype=dtype, device=device, steps=steps, rounds=rounds, seed=seed,
        threads=threads, compile=compile_, optimizer_only=optimizer_only, nproc=nproc, shard=shard,
        require=require or (), timeout=timeout,
    )  # fmt: skip
    named = {"--json": None if json_ == "-" else json_, "--csv": csv_, "--markdown": markdown,
             "--dashboard": dashboard, "--report": report, "--plot": plot}  # fmt: skip
    files = outputs.places({**named, "--save": None if save is None else prepare_saved_result(save)})
    line = outputs.command(bench, typed, _SHOWN)
    if files.pop("--plot", None) is not None:  # drawn at the end
        from optadvise.render.plots import figures

        figures.check(Path(str(plot)), "--plot")

    def keep(result: dict[str, Any]) -> None:
        from optadvise.render.text import benchmark as render

        made: dict[str, Callable[[dict[str, Any]], str]] = {
            "--json": outputs.as_json, "--save": outputs.as_json, "--csv": render.as_csv,
            "--markdown": render.as_markdown, "--dashboard": render.as_dashboard,
            "--report": lambda result: outputs.page(result, line),
        }  # fmt: skip
        for flag, path in files.items():
            write_output(path, made[flag](result))

    def show(result: dict[str, Any]) -> None:
        if json_ == "-":
            typer.echo(outputs.as_json(result), nl=False)
        else:
            from optadvise.render.text.benchmark import text

            text(result)

    try:
        if requested is None:
            result = _merged(names or [], advisor.catalog, control)
            keep(result)
        else:
            result = _measure(requested, keep, show, partial=bool(files))
    except KeyboardInterrupt:
        if plot is not None:
            typer.echo(f"optadvise: --plot {plot}: not drawn, as the measurement was interrupted", err=True)
        raise
    if requested is not None:
        outputs.kept(lambda: store.save_benchmark(result, datetime.now(timezone.utc).date().isoformat()))
    show(result)
    if plot is not None:
        from optadvise.cli.pictures import draw
        from optadvise.render.plots import measurements

        draw(lambda: measurements.bench(result, plot), _exit_code(result))
    raise typer.Exit(_exit_code(result))


def _merged(names: list[str], catalog: Catalog, control: str) -> dict[str, Any]:
    """Return one result of several files."""
    from optadvise.benchmark.comparison.merge import merged
    from optadvise.benchmark.saved_results import read_result

    if len(names) < 2:
        raise InputError("--merge: name two result files or more, as in optadvise bench --merge adamw.json lion.json")
    against = control if control == "none" else catalog.find_optimizer(control, "--control")
    return merged([(name, read_result(name)) for name in names], against)


def _recommendation(path: Path | None) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path is None or str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"--from {str(path or '-')!r}: cannot be read ({why})") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"--from: no JSON ({error}); pipe optadvise recommend --json into it") from error
    if not isinstance(data, dict):
        raise InputError("--from: not a recommendation; pipe optadvise recommend --json into it")
    return data


def _measure(requested: Request, keep: Any, show: Any, *, partial: bool) -> dict[str, Any]:
    """Measure with progress, and keep what there is when it is interrupted."""
    from optadvise.benchmark import request
    from optadvise.render.text.progress import progress

    with interrupt_on_sigterm(), progress(len(requested.arms), requested.spec.rounds) as told:
        try:
            found = request.measure(requested, progress=told, keep=keep if partial else None)
        except request.InterruptedMeasurement as stopped:
            keep(stopped.result)
            show(stopped.result)
            raise KeyboardInterrupt from None
    keep(found)
    return found


def _exit_code(result: dict[str, Any]) -> int:
    candidates = [arm for arm in result["arms"] if arm["role"] == "candidate"] or result["arms"]
    if all(arm["status"] != "ok" for arm in candidates):
        return 4
    return _VERDICT_CODES.get(result["verdict"], 0)
