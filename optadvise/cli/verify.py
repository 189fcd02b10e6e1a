"""`optadvise verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.errors import InputError


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Optimizers; all unless said.", autocompletion=of("optimizers"))
    ] = None,
    import_: Annotated[
        str | None, opt.option("Your own class instead: my_package.MyAdamW.", "--import", group="Your own")
    ] = None,
    as_: Annotated[
        str | None, opt.option("Which optimizer it says it is.", "--as", group="Your own", words=of("optimizers"))
    ] = None,
    json_: Annotated[str | None, opt.option("Write JSON to this file; - for stdout.", "--json", group="Output")] = None,
    markdown: Annotated[Path | None, opt.option("Write a Markdown page to this file.", group="Output")] = None,
    timeout: Annotated[float, opt.option("Seconds of one implementation; 60 unless said.", group="Output")] = 60.0,
    rules: opt.Rules = None,
) -> None:
    """Audit installed optimizers: does each compute what its paper says?

    Each is stepped beside a float64 reference of its paper, over shapes, starts, decays, rates and dtypes, and used as
    trainings use it. Exit code 1: one deviates that its card does not tell of, or your own does.
    """
    from optadvise import ruleset
    from optadvise.bench.files import write
    from optadvise.cli import outputs
    from optadvise.render import verify as render
    from optadvise.verify import run

    files = outputs.places({"--json": None if json_ == "-" else json_, "--markdown": markdown})
    if not timeout > 0:
        raise InputError(f"--timeout {timeout:g}: must be above 0 seconds")
    catalog = ruleset.catalog(rules)
    if (import_ is None) != (as_ is None):
        raise InputError("--import and --as belong together: --import my_package.MyAdamW --as adamw")
    if import_ is not None and names:
        raise InputError("--import: audits one class; leave the names out")
    asked = _own(catalog, import_, str(as_)) if import_ is not None else run.entries(catalog, _ids(catalog, names))
    found = []
    for one in run.audited(asked, told=_progress(len(asked)), timeout=timeout):
        found.append(one)
    result = run.result(found)
    made = {"--json": render.as_json, "--markdown": render.as_markdown}
    for flag, path in files.items():
        write(path, made[flag](result))
    if json_ == "-":
        typer.echo(render.as_json(result), nl=False)
    else:
        render.text(result)
    here = [one for one in found if one["verdict"] != run.ABSENT]
    if not here:
        raise typer.Exit(4)
    raise typer.Exit(0 if all(one["expected"] for one in here) else 1)


def _ids(catalog: Any, names: list[str] | None) -> list[str]:
    found = [catalog.find_optimizer(name, "verify") for name in names or ()]
    return list(dict.fromkeys(found)) or list(catalog.optimizer_ids)


def _own(catalog: Any, path: str, name: str) -> list[Any]:
    """Return somebody's own class as what it says it is."""
    from optadvise.domain import Implementation
    from optadvise.verify.run import Entry
    from optadvise.verify.subject import imported

    if "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"--import {path!r}: is no import path; write my_package.module.MyAdamW")
    card = catalog.optimizer(catalog.find_optimizer(name, "--as"))
    subject = imported(catalog, card, path)
    return [Entry(card, Implementation(path.rsplit(".", 1)[1], path, None, ("cpu",)), subject)]


def _progress(count: int) -> Any:
    """Return what is told of each that is looked at, in one line that is written over on a terminal."""
    seen = 0

    def told(entry: Any) -> None:
        nonlocal seen
        seen += 1
        if sys.stderr.isatty():
            line = f"{seen} of {count}: {entry.made.path}"
            print(f"\r{line[:78]:<78}", end="\n" if seen == count else "", file=sys.stderr, flush=True)

    return told
