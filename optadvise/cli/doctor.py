"""`optadvise doctor`."""

from __future__ import annotations

import typer

from optadvise.cli import options as opt
from optadvise.core.errors import CannotRunHereError
from optadvise.core.json_text import encode_json


def doctor(
    rules: opt.Rules = None,
    allow_imports: opt.AllowImports = None,
    json_: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """List devices, packages and optimizers that are usable on this machine, and why others are not.

    Takes some seconds, as every package is imported in a separate process.
    """
    from optadvise.cli import outputs
    from optadvise.diagnostics.doctor import examine_machine
    from optadvise.render.text.doctor import print_report
    from optadvise.rule_analysis import rule_folders

    with outputs.redirect_to(output):
        report = examine_machine(rule_folders.load_catalog(rules, allow_imports))
        if json_:
            typer.echo(encode_json(report, indent=2), nl=False)
        else:
            print_report(report)
    if report.torch.error is not None:
        typer.echo(f"optadvise: {report.torch.error}", err=True)  # the report is complete: no error object after it
        raise typer.Exit(CannotRunHereError.exit_code)
