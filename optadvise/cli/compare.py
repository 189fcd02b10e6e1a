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
    from optadvise.benchmark.records import BenchmarkResult

_VERDICT_CODES = {"fail": 1, "inconclusive": 5}


def _option(help_: str, *names: str) -> Any:
    return typer.Option(*names, help=help_, show_default=False)


_Base = Annotated[str, typer.Argument(help="The result to compare with: a file, or a name given to bench --save.")]
_New = Annotated[str, typer.Argument(help="The result in question, likewise.")]
_REQUIRE = "A gate on NEW: 'state_bytes <= 1x', 'optimizer_seconds <= 1.05x' (x: times BASE's); may repeat."
_Require = Annotated[list[str] | None, _option(_REQUIRE)]
_Json = Annotated[str | None, _option("Write JSON to this file; - for stdout.", "--json")]
_Markdown = Annotated[str | None, _option("Write a table for a pull request to this file; - for stdout.", "--markdown")]
_Plot = Annotated[
    Path | None, _option("Draw memory against speed, before and after: delta.png, .svg or .pdf.", "--plot")
]
_Force = Annotated[bool, _option("Compare even what was measured on other devices or other workloads.", "--force")]


def compare(
    base: _Base,
    new: _New,
    require: _Require = None,
    json_: _Json = None,
    markdown: _Markdown = None,
    plot: _Plot = None,
    force: _Force = False,
) -> None:
    """Set two results of optadvise bench against each other: what became slower, faster, larger or smaller.

    Times are held against each run's own control, since the runs were made at different times. Exit code 1: a
    requirement failed; 2: the two are not comparable; 5: the noise is larger than the question.
    """
    from optadvise.benchmark.comparison.ratios import compare as compare_results
    from optadvise.benchmark.requirements import parse_requirement
    from optadvise.benchmark.saved_results import read_result
    from optadvise.cli import outputs, pictures
    from optadvise.render.text.comparison import print_comparison, render_markdown

    if json_ == "-" and markdown == "-":
        raise InputError("--json - and --markdown -: stdout has room for one; write the other to a file")
    requirements = [parse_requirement(text) for text in require or ()]
    named = {"--json": json_, "--markdown": markdown}
    outputs.places({"--plot": plot, **{flag: path for flag, path in named.items() if path != "-"}})
    pictures.check(plot)
    before, after = read_result(base), read_result(new)
    comparison = compare_results(before, after, requirements, names=(base, new), force=force)
    for warning in comparison.warnings:
        typer.echo(f"optadvise: warning: {warning}", err=True)
    _write(json_, encode_json, comparison)
    _write(markdown, render_markdown, comparison)
    if "-" not in named.values():
        print_comparison(comparison)
    code = _VERDICT_CODES.get(comparison.verdict or "", 0)
    if plot is not None:
        _draw(before, after, (base, new), plot, code)
    raise typer.Exit(code)


def _write(path: str | None, encode: Callable[[Comparison], str], comparison: Comparison) -> None:
    """Write a comparison to a file, to stdout for `-`, nowhere for None."""
    from optadvise.core.files import write_output

    if path == "-":
        typer.echo(encode(comparison), nl=False)
    elif path is not None:
        write_output(Path(path), encode(comparison))


def _draw(before: BenchmarkResult, after: BenchmarkResult, names: tuple[str, str], plot: Path, code: int) -> None:
    from optadvise.cli import pictures
    from optadvise.render.plots import measurements

    pictures.draw(lambda: measurements.draw_comparison(before, after, names, plot), code)
