"""`optadvise estimate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.cli.outputs import places, redirect_to, report_written
from optadvise.core.json_text import encode_json
from optadvise.core.units import MAX_TIMEOUT, parse_count

if TYPE_CHECKING:
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.core.records import MemoryAnswer, MemoryEstimate


def estimate(
    run: Mapping[str, Any],
    workload: Annotated[
        str | None,
        opt.option(
            "Your own model: package.module:function that returns (module, batches) or (module, batches, loss).",
            "--workload",
            group="Model",
            metavar="FUNCTION",
        ),
    ] = None,
    timeout: Annotated[
        str, opt.option("Time limit for --workload in seconds (default: 300).", group="Model", metavar="N")
    ] = "300",
    rules: opt.Rules = None,
    all_: Annotated[bool, opt.option("Also print every other optimizer.", "--all", group="Output")] = False,
    plot: Annotated[
        Path | None,
        opt.option(
            "Draw the breakdown (with --all, of every optimizer) to this file: memory.png, .svg or .pdf.",
            group="Output",
        ),
    ] = None,
    json_: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Estimate the peak memory of training: whether it fits, the breakdown, and changes that make it fit.

    Describe the model by the name of an architecture, a config.json, dimensions, a parameter count alone (with a wider
    interval), or your own module.
    """
    from optadvise.advice.complete import complete_situation
    from optadvise.advice.inputs import parse_inputs, require_size
    from optadvise.advice.memory_answer import answer_memory
    from optadvise.rule_analysis import rule_folders

    places({"--output": output, "--plot": plot}, [run.get("hf_config"), *(rules or ())])
    if plot is not None:
        from optadvise.render.plots import figures

        figures.check_picture(plot, "--plot")
    seconds = parse_count(timeout, "--timeout", MAX_TIMEOUT)
    compiled = rule_folders.load_rules(rules)
    stated = parse_inputs(compiled.catalog, run)
    if workload is not None:
        from optadvise.fake_tensors.estimate import estimate_module

        answer = estimate_module(compiled, workload, stated, seconds)
    else:
        situation = complete_situation(compiled, stated)
        require_size(situation)
        answer = answer_memory(compiled, situation)
    with redirect_to(output):
        if json_:
            from optadvise.render.documents import build_estimate

            typer.echo(encode_json(build_estimate(answer, compiled.catalog), indent=2), nl=False)
        else:
            from optadvise.render.text.estimate import print_estimate

            print_estimate(answer, compiled.catalog, everything=all_)
    if plot is not None:
        from optadvise.render.plots import breakdowns

        drawn = {answer.optimizer: answer.memory}
        if all_:
            drawn = _estimate_breakdowns(compiled, answer, is_traced=workload is not None)
        breakdowns.draw_breakdowns(answer, drawn, plot)
        report_written(plot)


def _estimate_breakdowns(rules: CompiledRules, answer: MemoryAnswer, *, is_traced: bool) -> dict[str, MemoryEstimate]:
    """Return the breakdown of every optimizer by id; a traced module has that of one optimizer only."""
    from optadvise.memory import estimator

    ids = [] if is_traced else [fit.id for fit in answer.optimizers]
    others = {name: estimator.estimate(rules.memory_rules, answer.situation, name) for name in ids}
    return {**others, answer.optimizer: answer.memory}
