"""`optadvise recommend`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from optadvise.cli import options as opt
from optadvise.cli.complete import among, of
from optadvise.codegen import FRAMEWORKS
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.core.advice_records import Recommendation
    from optadvise.core.records import FactValues, MemoryAnswer, Situation
    from optadvise.render.explanation import Explanation

_FORMATS = ("text", "json", "yaml", "markdown", *FRAMEWORKS)
_EXPLAINED = ("text", "json", "yaml")


def recommend(
    run: Mapping[str, Any],
    rules: opt.Rules = None,
    format_: Annotated[
        str,
        opt.option(
            f"Output format: {', '.join(_FORMATS)} (default: text).", "--format", group="Output", metavar="FORMAT",
            completer=among(_FORMATS),
        ),
    ] = "text",
    json_: opt.Json = False,
    output: opt.Output = None,
    report: opt.Report = None,
    explain: Annotated[
        bool,
        opt.option(
            "Print everything: rules, sources, alternatives, memory, and the derivation of each number.", "--explain",
            group="Output",
        ),
    ] = False,
    why_not: Annotated[
        str | None,
        opt.option(
            "Explain why this optimizer is not recommended.", group="Output", metavar="NAME", completer=of("optimizers")
        ),
    ] = None,
    interactive: Annotated[
        bool, opt.option("Ask for the options that can still change the answer.", "--interactive", group="Output")
    ] = False,
) -> None:  # fmt: skip
    """Recommend an optimizer and a schedule, with numbers, reasons and sources.

    Options that are not specified have defaults. The output lists them, and the changes that would lead to another
    recommendation.
    """
    target = _parse_format(format_, as_json=json_, explained_by=_find_explaining_option(explain, why_not))
    if output is not None or report is not None:
        from optadvise.cli import outputs

        outputs.places({"--output": output, "--report": report}, [run.get("hf_config"), *(rules or ())])

    from optadvise.advice.complete import complete_situation
    from optadvise.advice.inputs import parse_inputs
    from optadvise.advice.memory_answer import find_remedies
    from optadvise.advice.recommend import recommend as recommend_situation
    from optadvise.evidence.apply import apply_evidence
    from optadvise.rule_analysis import rule_folders

    compiled = rule_folders.load_rules(rules)
    typed = inputs = parse_inputs(compiled.catalog, run)
    other = None if why_not is None else compiled.catalog.find_optimizer(why_not, "--why-not")
    if interactive:
        from optadvise.cli.interview import ask_facts

        inputs = ask_facts(compiled, inputs, tuple(map(str, rules or ())))
    situation = complete_situation(compiled, inputs)
    advice = apply_evidence(recommend_situation(compiled, situation), compiled.catalog)
    answer = _Answer(
        rules=compiled,
        advice=advice,
        memory=find_remedies(compiled, advice),
        explanation=_explain(compiled, situation, inputs, other, tables=explain),
    )
    text = _format_answer(answer, target, plain=output is not None)
    if report is not None:
        added = {name: value for name, value in inputs.items() if name not in typed}
        _write_report(report, answer, _format_command({**run, "rules": rules}, answer, added), inputs)
    if output is None:
        sys.stdout.write(text)
    else:
        from optadvise.core.files import write_output

        write_output(output, text, "--output")


class _Answer(Struct, frozen=True):
    """Recommendation with its memory and explanation."""

    rules: CompiledRules
    advice: Recommendation
    memory: MemoryAnswer | None
    explanation: Explanation | None


def _find_explaining_option(explain: bool, why_not: str | None) -> str | None:
    return "--explain" if explain else None if why_not is None else "--why-not"


def _parse_format(text: str, *, as_json: bool, explained_by: str | None) -> str:
    """Return the format of the answer.

    Args:
        text: The value of `--format`.
        as_json: Whether `--json` is set.
        explained_by: Option that requires a format with explanations, or None.
    """
    target = text.strip().lower()
    if as_json and target not in ("text", "json"):
        message = f"--json and --format {text} exclude each other; use one of them"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option="--format", value=text)
    target = "json" if as_json else target
    if target not in _FORMATS:
        message = f"--format {text!r} is not supported; {suggest_name(target, _FORMATS)}"
        raise InputError(message, code=ErrorCode.UNKNOWN_CHOICE, option="--format", value=text)
    if explained_by is not None and target not in _EXPLAINED:
        message = f"{explained_by} requires --format {' or '.join(_EXPLAINED)}, not {target}; remove one of the options"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option=explained_by, value=target)
    return target


def _explain(
    rules: CompiledRules, situation: Situation, inputs: FactValues, other: str | None, *, tables: bool
) -> Explanation | None:
    """Return the explanation of the answer; None without --explain and --why-not.

    Args:
        rules: The compiled rules.
        situation: The complete situation.
        inputs: The specified facts.
        other: The optimizer of `--why-not`.
        tables: Whether to explain the decisions of all tables.
    """
    if other is None and not tables:
        return None
    from optadvise.render.explanation import Explanation
    from optadvise.rule_analysis.why_not import explain_decisions, explain_why_not

    return Explanation(
        axes=rules.axes,
        decisions=explain_decisions(rules, situation) if tables else (),
        why_not=None if other is None else explain_why_not(rules, inputs, other),
    )


def _format_answer(answer: _Answer, target: str, *, plain: bool) -> str:
    """Return the answer in a format; print what a framework cannot express as notes on stderr."""
    advice, catalog = answer.advice, answer.rules.catalog
    if target in FRAMEWORKS:
        from optadvise.codegen.write import write_code

        code = write_code(answer.rules, advice, target)
        for note in code.notes:
            typer.echo(f"optadvise: note: {note}", err=True)
        return code.text
    if target in ("json", "yaml"):
        return _format_document(answer, target)
    if target == "markdown":
        from optadvise.render import markdown

        return markdown.render_recommendation(advice, catalog, answer.memory)
    from optadvise.render.text.advice import render_text

    return render_text(advice, catalog, answer.memory, answer.explanation, plain=plain)


def _format_document(answer: _Answer, target: str) -> str:
    """Return the answer as JSON or YAML."""
    from optadvise.render.documents import build_recommendation

    document = build_recommendation(answer.advice, answer.memory)
    if answer.explanation is not None:
        from optadvise.render.explanation import explain

        document = explain(document, answer.explanation)
    if target == "json":
        return encode_json(document, indent=2)
    from optadvise.render.yaml import render_yaml

    return render_yaml(document)


def _format_command(typed: Mapping[str, Any], answer: _Answer, added: FactValues) -> str:
    """Return the command line that reproduces this answer on any machine.

    Args:
        typed: Option values as typed.
        answer: The answer, with the GPU and the memory size that `--vram auto` detected.
        added: Facts from the questions of --interactive.
    """
    from optadvise.cli import outputs
    from optadvise.render.labels import find_gpu_id
    from optadvise.rule_analysis.inputs_of_point import format_command, format_memory

    vram_bytes = answer.advice.situation.vram_bytes
    if str(typed.get("vram")).strip().lower() == "auto" and vram_bytes is not None:
        gpu = find_gpu_id(answer.advice.situation, answer.rules.catalog)
        typed = {**typed, "vram": format_memory(vram_bytes), "gpu": gpu}
    line = outputs.command("recommend", typed)
    return line + format_command(answer.rules, added).removeprefix("optadvise recommend")


def _choose_framework(answer: _Answer) -> str:
    """Return the framework of a report's program: plain PyTorch, or one that shards the run over several GPUs."""
    from optadvise.core.framework_cards import list_kinds

    run, frameworks = answer.advice.situation, answer.rules.catalog.frameworks
    for name in FRAMEWORKS if run.gpus > 1 else ():
        card = frameworks[name]
        if run.shard in card.shard_launch and not any(kind in card.rejects for kind in list_kinds(run)):
            return name
    return "python"


def _write_report(file: Path, answer: _Answer, command: str, inputs: FactValues) -> None:
    """Write the answer as an HTML report, with a program that follows it."""
    from optadvise.cli import outputs
    from optadvise.codegen.write import write_code
    from optadvise.core.files import write_output
    from optadvise.render.html.recommendation import render_recommendation

    program = write_code(answer.rules, answer.advice, _choose_framework(answer))
    origin = outputs.origin(command, program.text, inputs)
    page = render_recommendation(answer.advice, answer.rules.catalog, origin, answer.memory)
    write_output(file, page, "--report")
