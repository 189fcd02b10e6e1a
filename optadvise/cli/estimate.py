"""`optadvise estimate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.core.json_text import encode_json
from optadvise.core.units import parse_count


def estimate(
    run: Mapping[str, Any],
    from_: Annotated[
        str | None,
        opt.option(
            "Your own: package.module:function, which returns (module, batches) or (module, batches, loss).",
            "--from",
            group="The network",
        ),
    ] = None,
    timeout: Annotated[str, opt.option("Seconds that --from may take; 300 unless said.", group="The network")] = "300",
    rules: opt.Rules = None,
    all_: Annotated[bool, opt.option("Every optimizer on a line of its own.", "--all", group="Output")] = False,
    plot: Annotated[
        Path | None,
        opt.option("A picture too: memory.png, .svg or .pdf; every optimizer's with --all.", group="Output"),
    ] = None,
    json_: Annotated[bool, opt.option("Print JSON.", "--json", group="Output")] = False,
) -> None:
    """Tell whether training fits a GPU, as a ledger with its arithmetic, and what would make it fit.

    The network is a name, a config.json, dimensions, a size alone (which widens the interval), or your own module.
    """
    from optadvise.advice.complete import complete_situation
    from optadvise.advice.inputs import parse_inputs, require_size
    from optadvise.advice.memory_answer import answer_memory
    from optadvise.rule_analysis import rule_folders

    if plot is not None:
        from optadvise.render.plots import figures

        figures.check_picture(plot, "--plot")
    seconds = parse_count(timeout, "--timeout")
    advisor = rule_folders.load_rules(rules)
    stated = parse_inputs(advisor.catalog, run)
    if from_ is not None:
        from optadvise.fake_tensors.estimate import estimate_module

        answer = estimate_module(advisor, from_, stated, seconds)
    else:
        situation = complete_situation(advisor, stated)
        require_size(situation)
        answer = answer_memory(advisor, situation)
    if json_:
        from optadvise.render.documents import build_estimate

        typer.echo(encode_json(build_estimate(answer, advisor.catalog), indent=2), nl=False)
    else:
        from optadvise.render.text.estimate import print_estimate

        print_estimate(answer, advisor.catalog, everything=all_)
    if plot is not None:
        from optadvise.render.plots import breakdowns

        breakdowns.draw_breakdowns(answer, _ledgers(advisor, answer, everything=all_ and from_ is None), plot)
        typer.echo(f"wrote {plot}", err=True)


def _ledgers(advisor: Any, answer: Any, *, everything: bool) -> dict[str, Any]:
    """Return the breakdowns to draw by optimizer; a user's module was measured with one optimizer only."""
    from optadvise.memory import estimator

    ids = [fit.id for fit in answer.optimizers] if everything else []
    others = {name: estimator.estimate(advisor.memory_rules, answer.situation, name) for name in ids}
    return {**others, answer.optimizer: answer.memory}
