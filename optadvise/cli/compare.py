"""`optadvise compare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.benchmark.comparison.records import Comparison

_VERDICT_CODES = {"fail": 1, "inconclusive": 5}


def _option(help_: str, *names: str) -> Any:
    return typer.Option(*names, help=help_, show_default=False)


def compare(
    base: Annotated[str, typer.Argument(help="The result to compare with: a file, or a name given to bench --save.")],
    new: Annotated[str, typer.Argument(help="The result in question, likewise.")],
    require: Annotated[
        list[str] | None,
        _option("A gate on NEW: 'state_bytes <= 1x', 'optimizer_seconds <= 1.05x' (x: times BASE's); may repeat."),
    ] = None,
    json_: Annotated[str | None, _option("Write JSON to this file; - for stdout.", "--json")] = None,
    markdown: Annotated[
        str | None, _option("Write a table for a pull request to this file; - for stdout.", "--markdown")
    ] = None,
    plot: Annotated[
        Path | None, _option("Draw memory against speed, before and after: delta.png, .svg or .pdf.", "--plot")
    ] = None,
    force: Annotated[
        bool, _option("Compare even what was measured on other devices or other workloads.", "--force")
    ] = False,
) -> None:
    """Set two results of optadvise bench against each other: what became slower, faster, larger or smaller.

    Times are held against each run's own control, since the runs were made at different times. Exit code 1: a
    requirement failed; 2: the two are not comparable; 5: the noise is larger than the question.
    """
    from optadvise.benchmark.comparison.ratios import compare as compare_results
    from optadvise.benchmark.requirements import parse_requirement
    from optadvise.benchmark.saved_results import read_result
    from optadvise.cli.outputs import places
    from optadvise.core.files import write_output
    from optadvise.render.text import comparison as render

    if json_ == "-" and markdown == "-":
        raise InputError("--json - and --markdown -: stdout has room for one; write the other to a file")
    requirements = [parse_requirement(text) for text in require or ()]
    outputs: list[tuple[str, str | None, Callable[[Comparison], str]]] = [
        ("--json", json_, encode_json),
        ("--markdown", markdown, render.as_markdown),
    ]
    places({"--plot": plot, **{flag: path for flag, path, _ in outputs if path != "-"}})
    if plot is not None:
        from optadvise.render.plots import figures

        figures.check(plot, "--plot")
    before, after = read_result(base), read_result(new)
    comparison = compare_results(before, after, requirements, names=(base, new), force=force)
    for warning in comparison.warnings:
        typer.echo(f"optadvise: warning: {warning}", err=True)
    for _, path, encode in outputs:
        if path == "-":
            typer.echo(encode(comparison), nl=False)
        elif path is not None:
            write_output(Path(path), encode(comparison))
    if "-" not in (json_, markdown):
        render.text(comparison)
    code = _VERDICT_CODES.get(comparison.verdict or "", 0)
    if plot is not None:
        from optadvise.cli.pictures import draw
        from optadvise.render.plots import measurements

        draw(lambda: measurements.comparison(before, after, (base, new), plot), code)
    raise typer.Exit(code)
