"""`optadvise schedule`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.cli.outputs import places, redirect_to, report_written
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json
from optadvise.core.units import parse_count

if TYPE_CHECKING:
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.core.cards import Scheduler
    from optadvise.render.schedule import ScheduleRun

_MOST = 10**12  # steps of a run


def schedule(
    name: Annotated[
        str,
        typer.Argument(
            help="Schedule, in any spelling; optadvise list --schedules lists all.", autocompletion=of("schedules")
        ),
    ],
    steps: Annotated[str, opt.option("Optimizer steps of the run (default: 100K).", metavar="N")] = "100K",
    warmup: Annotated[
        str | None,
        opt.option("Warmup steps, or a fraction of the run such as 3% (default: set by the rules).", metavar="N"),
    ] = None,
    lr: Annotated[float, opt.option("Peak learning rate (default: 1e-3).")] = 1e-3,
    compare: Annotated[
        list[str] | None, opt.option("Schedule to compare with; repeatable.", completer=of("schedules"))
    ] = None,
    plot: Annotated[Path | None, opt.option("Plot to this file: lr.png, .svg or .pdf.", group="Output")] = None,
    rules: opt.Rules = None,
    json_: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Print the learning rate of a schedule over a run: a summary, a table and a curve."""
    from optadvise.rule_analysis import rule_folders

    places({"--output": output, "--plot": plot}, rules or ())
    if plot is not None:
        from optadvise.render.plots import figures

        figures.check_picture(plot, "--plot")
    total = parse_count(steps, "--steps")
    if total > _MOST:
        message = f"--steps {steps!r}: must be at most {_MOST:,}"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--steps", value=steps)
    if not 1e-30 <= lr <= 1e6:
        message = f"--lr {lr:g}: must be between 1e-30 and 1e6"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--lr", value=lr)
    compiled = rule_folders.load_rules(rules)
    ids = [compiled.catalog.find_scheduler(name, "schedule")]
    ids += [compiled.catalog.find_scheduler(other, "--compare") for other in compare or ()]
    cards = [compiled.catalog.scheduler(key) for key in dict.fromkeys(ids)]
    fraction = None if warmup is None else _parse_warmup(warmup, total)
    if fraction and not any(card.warmup for card in cards):
        message = f"--warmup {warmup!r}: {cards[0].id} has no warmup; remove the option, or use another schedule"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option="--warmup", value=warmup)
    planned = [_plan_run(compiled, card, lr, total, fraction) for card in cards]
    with redirect_to(output):
        if json_:
            from optadvise.render.schedule import build_schedules

            typer.echo(encode_json(build_schedules(planned)), nl=False)
        else:
            from optadvise.render.text.schedule import print_schedules

            print_schedules(planned)
    if plot is not None:
        from optadvise.render.plots.schedules import draw_schedules

        draw_schedules(planned, plot)
        report_written(plot)


def _parse_warmup(text: str, steps: int) -> float:
    """Return the fraction of a run that is warmup.

    Args:
        text: The value of `--warmup`: steps, or percent.
        steps: Steps of the run.

    Raises:
        InputError: The text is neither, or the warmup is not shorter than the run.
    """
    if text.strip() in ("0", "0%"):
        return 0.0
    try:
        is_percent = text.strip().endswith("%")
        fraction = float(text.strip()[:-1]) / 100 if is_percent else parse_count(text, "--warmup") / steps
    except ValueError as error:
        message = f"--warmup {text!r} must be a number of steps or a percentage, such as 2000 or 3%"
        raise InputError(message, code=ErrorCode.INVALID_NUMBER, option="--warmup", value=text) from error
    if not fraction >= 0:
        message = f"--warmup {text!r}: must be 0 or more"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--warmup", value=text)
    if fraction >= 1:
        message = f"--warmup {text!r}: must be shorter than the run of {steps:,} steps"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--warmup", value=text)
    return fraction


def _plan_run(rules: CompiledRules, card: Scheduler, lr: float, steps: int, warmup: float | None) -> ScheduleRun:
    """Return a schedule over a run.

    Args:
        rules: The compiled rules.
        card: The schedule.
        lr: The peak learning rate.
        steps: Steps of the run.
        warmup: Warmup as a fraction of the run; None for the default of the rules.
    """
    from optadvise.advice.schedule_choice import find_default_warmup
    from optadvise.core import schedules
    from optadvise.render.schedule import ScheduleRun

    reason = "set by --warmup"
    if warmup is None:
        rule = find_default_warmup(rules, card)
        warmup, reason = float(str(rule.number.value)), f"default of rule {rule.id}. {rule.because}"
    elif not warmup and card.warmup:
        reason = "this schedule has at least one warmup step"
    run = ScheduleRun(
        card=card,
        advice=schedules.resolve_schedule(card, lr, steps, warmup, {}),
        lr=lr,
        steps=steps,
        warmup_source=reason,
    )
    try:
        run.list_points()
    except (ZeroDivisionError, ValueError) as error:  # as torch's own classes do
        message = f"--steps {steps}: too few for {card.id} with this --warmup; increase --steps or reduce --warmup"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--steps", value=steps) from error
    return run
