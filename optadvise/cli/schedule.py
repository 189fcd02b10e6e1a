"""`optadvise schedule`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json
from optadvise.core.units import parse_count

_MOST = 10**12  # steps of a run


def schedule(
    name: Annotated[
        str,
        typer.Argument(
            help="A schedule, in any spelling; optadvise list --schedules shows all.", autocompletion=of("schedules")
        ),
    ],
    steps: Annotated[str, opt.option("Optimizer steps of the run: 100K.")] = "100K",
    warmup: Annotated[
        str | None, opt.option("Steps of the ramp, or a share such as 3%; by the rules unless said.")
    ] = None,
    lr: Annotated[float, opt.option("The highest rate; 1e-3 unless said.")] = 1e-3,
    compare: Annotated[
        list[str] | None, opt.option("Another schedule beside it; may repeat.", words=of("schedules"))
    ] = None,
    out: Annotated[
        Path | None, opt.option("A picture too: lr.png, .svg or .pdf.", "--out", "-o", group="Output")
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
    cards = [compiled.catalog.scheduler(found) for found in dict.fromkeys(ids)]
    share = None if warmup is None else _share(warmup, total)
    if share and not any(card.warmup for card in cards):
        raise InputError(
            f"--warmup {warmup!r}: {cards[0].id} has none; leave it out, or take another of list --schedules"
        )
    planned = [_planned(compiled, card, lr, total, share) for card in cards]
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


def _share(text: str, steps: int) -> float:
    """Return the share of a run that ramps up.

    Args:
        text: What was typed: steps, or percent.
        steps: Of the whole run.

    Raises:
        InputError: It is neither, or not less than the run.
    """
    if text.strip() in ("0", "0%"):
        return 0.0
    try:
        share = float(text.strip()[:-1]) / 100 if text.strip().endswith("%") else parse_count(text, "--warmup") / steps
    except ValueError as error:
        raise InputError(f"--warmup {text!r}: neither steps nor a share; write 2000 or 3%") from error
    if not share >= 0:
        raise InputError(f"--warmup {text!r}: must be 0 or more")
    if share >= 1:
        raise InputError(f"--warmup {text!r}: must be shorter than the run of {steps:,} steps")
    return share


def _planned(rules: Any, card: Any, lr: float, steps: int, share: float | None) -> Any:
    """Return a schedule over the run, its warmup by the rules where nothing was said."""
    from optadvise.advice.schedule_choice import find_default_warmup
    from optadvise.core import schedules
    from optadvise.render.schedule import ScheduleRun

    why = "as said"
    if share is None:
        rule = find_default_warmup(rules, card)
        share, why = float(str(rule.number.value)), f"{rule.id}: {rule.because}"
    elif not share and card.warmup:
        why = "0 was said, and it has one at least"
    advice = schedules.resolve_schedule(card, lr, steps, share, {})
    found = ScheduleRun(card, advice, lr, steps, why)
    try:
        found.list_points()
    except (ZeroDivisionError, ValueError) as error:  # as torch's own classes do
        raise InputError(
            f"--steps {steps}: too short for {card.id} with this --warmup; say more of one of them"
        ) from error
    return found
