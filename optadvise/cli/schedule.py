"""`optadvise schedule`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
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
            help="A schedule, in any spelling; optadvise list --schedules shows all.", autocompletion=of("schedules")
        ),
    ],
    steps: Annotated[str, opt.option("Optimizer steps of the run (default: 100K).", metavar="N")] = "100K",
    warmup: Annotated[
        str | None, opt.option("Warmup steps, or a part of the run such as 3% (default: by the rules).", metavar="N")
    ] = None,
    lr: Annotated[float, opt.option("Peak learning rate (default: 1e-3).")] = 1e-3,
    compare: Annotated[
        list[str] | None, opt.option("Schedule to compare it with; may repeat.", completer=of("schedules"))
    ] = None,
    out: Annotated[
        Path | None, opt.option("Draw it to this file: lr.png, .svg or .pdf.", "--out", "-o", group="Output")
    ] = None,
    rules: opt.Rules = None,
    json_: Annotated[bool, opt.option("Print JSON.", "--json", group="Output")] = False,
) -> None:
    """Show the learning rate that a schedule gives each step of a run: in words, as a table and as a curve."""
    from optadvise.rule_analysis import rule_folders

    if out is not None:
        from optadvise.render.plots import figures

        figures.check_picture(out, "--out")
    total = parse_count(steps, "--steps")
    if total > _MOST:
        raise InputError(f"--steps {steps!r}: at most {_MOST:,}")
    if not 1e-30 <= lr <= 1e6:
        raise InputError(f"--lr {lr:g}: must be between 1e-30 and 1e6")
    compiled = rule_folders.load_rules(rules)
    ids = [compiled.catalog.find_scheduler(name, "schedule")]
    ids += [compiled.catalog.find_scheduler(other, "--compare") for other in compare or ()]
    cards = [compiled.catalog.scheduler(key) for key in dict.fromkeys(ids)]
    fraction = None if warmup is None else _parse_warmup(warmup, total)
    if fraction and not any(card.warmup for card in cards):
        raise InputError(
            f"--warmup {warmup!r}: {cards[0].id} has none; leave it out, or take another of list --schedules"
        )
    planned = [_plan_run(compiled, card, lr, total, fraction) for card in cards]
    if json_:
        from optadvise.render.schedule import build_schedules

        typer.echo(encode_json(build_schedules(planned)), nl=False)
    else:
        from optadvise.render.text.schedule import print_schedules

        print_schedules(planned)
    if out is not None:
        from optadvise.render.plots.schedules import draw_schedules

        draw_schedules(planned, out)
        typer.echo(f"wrote {out}", err=True)


def _parse_warmup(text: str, steps: int) -> float:
    """Return the fraction of a run that is warmup.

    Args:
        text: The value of `--warmup`: steps, or percent.
        steps: Of the whole run.

    Raises:
        InputError: It is neither, or not less than the run.
    """
    if text.strip() in ("0", "0%"):
        return 0.0
    try:
        is_percent = text.strip().endswith("%")
        fraction = float(text.strip()[:-1]) / 100 if is_percent else parse_count(text, "--warmup") / steps
    except ValueError as error:
        raise InputError(f"--warmup {text!r}: neither steps nor a share; write 2000 or 3%") from error
    if not fraction >= 0:
        raise InputError(f"--warmup {text!r}: must be 0 or more")
    if fraction >= 1:
        raise InputError(f"--warmup {text!r}: must be shorter than the run of {steps:,} steps")
    return fraction


def _plan_run(rules: CompiledRules, card: Scheduler, lr: float, steps: int, warmup: float | None) -> ScheduleRun:
    """Return a schedule over a run.

    Args:
        rules: The compiled rules.
        card: The schedule.
        lr: The peak learning rate.
        steps: Of the whole run.
        warmup: The fraction of the run that is warmup; None for the default of the rules.
    """
    from optadvise.advice.schedule_choice import find_default_warmup
    from optadvise.core import schedules
    from optadvise.render.schedule import ScheduleRun

    reason = "as said"
    if warmup is None:
        rule = find_default_warmup(rules, card)
        warmup, reason = float(str(rule.number.value)), f"{rule.id}: {rule.because}"
    elif not warmup and card.warmup:
        reason = "0 was said, and it has one at least"
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
        raise InputError(
            f"--steps {steps}: too short for {card.id} with this --warmup; say more of one of them"
        ) from error
    return run
