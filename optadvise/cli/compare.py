"""`optadvise compare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.benchmark.comparison.records import Comparison
    from optadvise.benchmark.records import BenchmarkResult

_VERDICT_CODES = {"fail": 1, "inconclusive": 5}


_Base = Annotated[str, typer.Argument(help="Reference result: a file, or a name from bench --save.")]
_New = Annotated[str, typer.Argument(help="Result to judge: a file, or a name from bench --save.")]
_REQUIRE = (
    "Requirement for NEW: 'state_bytes <= 1x', 'optimizer_seconds <= 1.05x' (x: times BASE); repeatable. "
    "Metrics: see optadvise bench --help."
)
_Require = Annotated[list[str] | None, opt.option(_REQUIRE, group="Comparison")]
_MARKDOWN = "Write a Markdown table to this file; - for stdout."
_Markdown = Annotated[
    str | None,
    opt.option(_MARKDOWN, "--markdown", group="Output", metavar="FILE"),
]
_Plot = Annotated[
    Path | None,
    opt.option("Plot memory against speed of both results to this file: delta.png, .svg or .pdf.", group="Output"),
]
_Force = Annotated[
    bool, opt.option("Compare results of different devices or workloads anyway.", "--force", group="Comparison")
]


def compare(
    base: _Base,
    new: _New,
    require: _Require = None,
    force: _Force = False,
    json_: opt.JsonFile = None,
    markdown: _Markdown = None,
    plot: _Plot = None,
) -> None:
    """Compare two results of optadvise bench: step time, memory and loss.

    Times are compared relative to each run's own control, as the runs were made at different times. Exit code 1: a
    requirement failed; 2: the results are not comparable; 5: inconclusive, as the noise is too large.
    """
    from optadvise.benchmark.comparison.ratios import compare as compare_results
    from optadvise.benchmark.requirements import parse_requirement
    from optadvise.benchmark.saved_results import read_result
    from optadvise.cli import outputs, pictures
    from optadvise.render.text.comparison import print_comparison, render_markdown

    if json_ == "-" and markdown == "-":
        message = "--json - and --markdown - both write to stdout; use a file for one of them"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option="--markdown", value="-")
    requirements = [parse_requirement(text) for text in require or ()]
    named = {"--json": json_, "--markdown": markdown}
    outputs.places({"--plot": plot, **{flag: path for flag, path in named.items() if path != "-"}}, [base, new])
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
    """Write a comparison to a file, or to stdout for `-`; do nothing for None."""
    from optadvise.core.files import write_output

    if path == "-":
        typer.echo(encode(comparison), nl=False)
    elif path is not None:
        write_output(Path(path), encode(comparison))


def _draw(before: BenchmarkResult, after: BenchmarkResult, names: tuple[str, str], plot: Path, code: int) -> None:
    from optadvise.cli import pictures
    from optadvise.render.plots import measurements

    pictures.draw(lambda: measurements.draw_comparison(before, after, names, plot), code)
