"""`optadvise doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optadvise.core.errors import CannotRunHereError
from optadvise.core.json_text import encode_json


def doctor(
    rules: Annotated[
        list[Path] | None, typer.Option("--rules", metavar="DIR", help="A folder of further rules; may repeat.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell what is installed and usable here, and what is not and why.

    Devices, packages, and for each optimizer of the catalogue what runs it. Takes some seconds, as it imports them all
    in a process of its own.
    """
    from optadvise.diagnostics.doctor import examine_machine
    from optadvise.render.text.doctor import print_report
    from optadvise.rule_analysis import rule_folders

    report = examine_machine(rule_folders.load_catalog(rules))
    if json_:
        typer.echo(encode_json(report, indent=2), nl=False)
    else:
        print_report(report)
    if report.torch.error is not None:
        raise CannotRunHereError(report.torch.error)
