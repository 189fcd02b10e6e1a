"""`optadvise recommend`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import among, of
from optadvise.codegen import FRAMEWORKS
from optadvise.core.errors import InputError, nearest
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.core.records import MemoryAnswer, Recommendation, Situation
    from optadvise.render.explanation import Explanation

_FORMATS = ("text", "json", "yaml", "markdown", *FRAMEWORKS)
_EXPLAINED = ("text", "json", "yaml")


def recommend(
    run: Mapping[str, Any],
    rules: opt.Rules = None,
    format_: Annotated[
        str, opt.option(f"{', '.join(_FORMATS)}.", "--format", group="Output", words=among(_FORMATS))
    ] = "text",
    json_: opt.Json = False,
    output: Annotated[Path | None, opt.option("Write to this file instead.", "--output", "-o", group="Output")] = None,
    report: opt.Report = None,
    explain: Annotated[
        bool, opt.option("Show what came nearest, and how each number came to be.", "--explain", group="Output")
    ] = False,
    why_not: Annotated[
        str | None, opt.option("What keeps this one from being the answer?", group="Output", words=of("optimizers"))
    ] = None,
    interactive: Annotated[
        bool, opt.option("Ask what would still change the answer.", "--interactive", group="Output")
    ] = False,
) -> None:
    """Recommend an optimizer and a schedule, with numbers, reasons and sources.

    What is not said is assumed, listed, and the answer tells where it would change.
    """
    shape = format_.strip().lower()
    if json_ and shape not in ("text", "json"):
        raise InputError(f"--json --format {format_}: both say how to print; give one of them")
    shape = "json" if json_ else shape
    if shape not in _FORMATS:
        raise InputError(f"--format {format_!r}: not known; {nearest(shape, _FORMATS)}")
    if (explain or why_not is not None) and shape not in _EXPLAINED:
        flag = "--explain" if explain else "--why-not"
        raise InputError(f"{flag} --format {shape}: only {', '.join(_EXPLAINED)} explain; leave one of them out")

    if output is not None or report is not None:
        from optadvise.cli import outputs

        outputs.places({"--output": output, "--report": report})

    from optadvise.advice.complete import complete_situation
    from optadvise.advice.inputs import parse_inputs
    from optadvise.advice.memory_answer import find_remedies
    from optadvise.advice.recommend import recommend as advise
    from optadvise.evidence.apply import apply_evidence
    from optadvise.rule_analysis import rule_folders

    advisor = rule_folders.load_rules(rules)
    told = said = parse_inputs(advisor.catalog, run)
    other = None if why_not is None else advisor.catalog.find_optimizer(why_not, "--why-not")
    if interactive:
        from optadvise.cli.interview import ask_facts

        said = ask_facts(advisor, said, tuple(map(str, rules or ())))
    situation = complete_situation(advisor, said)
    advice = apply_evidence(advise(advisor, situation), advisor.catalog)
    fit = find_remedies(advisor, advice)
    explanation = None
    if explain or other is not None:
        from optadvise.render.explanation import Explanation
        from optadvise.rule_analysis.why_not import explain_decisions, explain_why_not

        explanation = Explanation(
            advisor.axes,
            explain_decisions(advisor, situation) if explain else (),
            None if other is None else explain_why_not(advisor, said, other),
        )
    text = _written(advisor, advice, shape, fit, explanation, plain=output is not None)
    if report is not None:
        asked = {name: value for name, value in said.items() if name not in told}
        typed = {**run, "rules": rules}
        _page(report, _command(typed, situation, advisor, asked), advisor, advice, fit, said)
    if output is None:
        sys.stdout.write(text)
    else:
        from optadvise.core.files import write_output

        write_output(output, text)


def _page(
    file: Path,
    command: str,
    advisor: CompiledRules,
    advice: Recommendation,
    fit: MemoryAnswer | None,
    said: Mapping[str, Any],
) -> None:
    """Write the advice as a page of HTML, with the program that does what is advised."""
    from optadvise.cli import outputs
    from optadvise.codegen.write import write_code
    from optadvise.core.files import write_output
    from optadvise.render.html.recommendation import render_recommendation

    origin = outputs.origin(command, write_code(advisor, advice, "python").text, said)
    write_output(file, render_recommendation(advice, advisor.catalog, origin, fit))


def _written(
    advisor: CompiledRules,
    advice: Recommendation,
    shape: str,
    fit: MemoryAnswer | None,
    explanation: Explanation | None,
    *,
    plain: bool,
) -> str:
    """Return the advice in a format; what a framework cannot express is told on stderr."""
    if shape in FRAMEWORKS:
        from optadvise.codegen.write import write_code

        code = write_code(advisor, advice, shape)
        for note in code.notes:
            typer.echo(f"optadvise: note: {note}", err=True)
        return code.text
    if shape in ("json", "yaml"):
        return _render_document(advice, shape, fit, explanation)
    if shape == "markdown":
        from optadvise.render import markdown

        return markdown.render_recommendation(advice, advisor.catalog, fit)
    from optadvise.render.text.advice import render_text

    return render_text(advice, advisor.catalog, fit, explanation, plain=plain)


def _render_document(
    advice: Recommendation, shape: str, fit: MemoryAnswer | None, explanation: Explanation | None
) -> str:
    """Return the advice as JSON or YAML."""
    from optadvise.render.documents import build_recommendation

    document = build_recommendation(advice, fit)
    if explanation is not None:
        from optadvise.render.explanation import explain

        document = explain(document, explanation)
    if shape == "json":
        return encode_json(document, indent=2)
    from optadvise.render.yaml import render_yaml

    return render_yaml(document)


def _command(typed: dict[str, Any], situation: Situation, advisor: CompiledRules, asked: dict[str, Any]) -> str:
    """Return the command line that gives this advice anywhere: with what was asked and what was found here."""
    from optadvise.cli import outputs
    from optadvise.rule_analysis.inputs_of_point import format_command, format_memory

    if str(typed.get("vram")).strip().lower() == "auto" and situation.vram_bytes is not None:
        typed = {**typed, "vram": format_memory(situation.vram_bytes)}
    line = outputs.command("recommend", typed)
    return line + format_command(advisor, asked).removeprefix("optadvise recommend")
