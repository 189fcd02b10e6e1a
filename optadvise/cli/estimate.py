"""`optadvise estimate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.core.json_text import encode_json
from optadvise.core.units import parse_count

if TYPE_CHECKING:
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.core.records import MemoryAnswer, MemoryEstimate


def estimate(
    run: Mapping[str, Any],
    from_: Annotated[
        str | None,
        opt.option(
            "Your own network: package.module:function that returns (module, batches) or (module, batches, loss).",
            "--from",
            group="The network",
        ),
    ] = None,
    timeout: Annotated[
        str, opt.option("Seconds that --from may take (default: 300).", group="The network", metavar="N")
    ] = "300",
    rules: opt.Rules = None,
    all_: Annotated[bool, opt.option("Print every optimizer on its own line.", "--all", group="Output")] = False,
    plot: Annotated[
        Path | None,
        opt.option("Draw the breakdown to this file: memory.png, .svg or .pdf; all with --all.", group="Output"),
    ] = None,
    json_: Annotated[bool, opt.option("Print JSON.", "--json", group="Output")] = False,
) -> None:
    """Estimate whether training fits a GPU: a memory breakdown with its arithmetic, and what would make it fit.

    The network is a name, a config.json, dimensions, a size alone (with a wider interval), or your own module.
    """
    from optadvise.advice.complete import complete_situation
    from optadvise.advice.inputs import parse_inputs, require_size
    from optadvise.advice.memory_answer import answer_memory
    from optadvise.rule_analysis import rule_folders

    if plot is not None:
        from optadvise.render.plots import figures

        figures.check_picture(plot, "--plot")
    seconds = parse_count(timeout, "--timeout")
    compiled = rule_folders.load_rules(rules)
    stated = parse_inputs(compiled.catalog, run)
    if from_ is not None:
        from optadvise.fake_tensors.estimate import estimate_module

        answer = estimate_module(compiled, from_, stated, seconds)
    else:
        situation = complete_situation(compiled, stated)
        require_size(situation)
        answer = answer_memory(compiled, situation)
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
            drawn = _estimate_breakdowns(compiled, answer, is_traced=from_ is not None)
        breakdowns.draw_breakdowns(answer, drawn, plot)
        typer.echo(f"wrote {plot}", err=True)


def _estimate_breakdowns(rules: CompiledRules, answer: MemoryAnswer, *, is_traced: bool) -> dict[str, MemoryEstimate]:
    """Return the breakdowns of all optimizers by id; of a user's module, which one optimizer stepped, that one's."""
    from optadvise.memory import estimator

    ids = [] if is_traced else [fit.id for fit in answer.optimizers]
    others = {name: estimator.estimate(rules.memory_rules, answer.situation, name) for name in ids}
    return {**others, answer.optimizer: answer.memory}
