"""`optadvise rules`: prove, test, compare and describe the rule base."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.help import GroupedCommand, format_epilog
from optadvise.cli.outputs import places, redirect_to
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json
from optadvise.core.text import clean_text

_EXAMPLES = {
    "check": ("optadvise rules check --rules our-rules",),
    "test": ("optadvise rules test --mutants",),
    "diff": ("optadvise rules diff - our-rules",),
    "graph": ("optadvise rules graph --plot flow.svg",),
    "schema": ("optadvise rules schema --output schema",),
    "docs": ("optadvise rules docs --output rules.md",),
    "init": ("optadvise rules init our-rules",),
}


def group() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="Prove, test, compare and describe the rules.", no_args_is_help=True,
                      rich_markup_mode=None)  # fmt: skip
    for command in (check, run_tests, diff, graph, schema, docs, init):
        name = "test" if command is run_tests else command.__name__
        app.command(name, cls=GroupedCommand, epilog=format_epilog(*_EXAMPLES[name]))(command)
    return app


def check(rules: opt.Rules = None, json_: opt.Json = False, output: opt.Output = None) -> None:
    """Prove that the rules have no gaps, no conflicts and no unreachable rules. Exit code 1: the proof fails.

    Each finding has its file and line, and a command line that shows it.
    """
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.memory.networks import load_networks
    from optadvise.render.rules import build_check
    from optadvise.render.text.rules import print_proofs
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.check import prove_rules

    with redirect_to(output, rules or ()):
        compiled = CompiledRules(rule_folders.load_catalog(rules))
        load_networks(compiled.catalog)
        compiled.catalog.read_all()
        proofs = prove_rules(compiled, tuple(map(str, rules or ())))
        if json_:
            typer.echo(encode_json(build_check(proofs), indent=2), nl=False)
        else:
            print_proofs(proofs)
    raise typer.Exit(0 if proofs.sound else 1)


def run_tests(
    rules: opt.Rules = None,
    mutants: Annotated[
        bool, opt.option("Also change each rule, and require that a test fails.", "--mutants", group="Tests")
    ] = False,
    suggest: Annotated[bool, opt.option("Print test cases for surviving mutants.", "--suggest", group="Tests")] = False,
    json_: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Run the tests in the rule files. Exit code 1: a test fails, or a rule has no test.

    Each rule has tests in its row; tests of whole answers are under cases/. --mutants deletes rules and widens
    conditions one at a time, and lists the changes that neither the proofs nor the tests detect.
    """
    if suggest and not mutants:
        raise InputError("--suggest requires --mutants", code=ErrorCode.MISSING_OPTION, option="--suggest")
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.render.rules import build_test
    from optadvise.render.text.rules import print_tests
    from optadvise.rule_analysis import rule_folders, rule_tests
    from optadvise.rule_analysis.mutants import suggest_cases, try_mutants
    from optadvise.rulebase.case_files import read_cases

    with redirect_to(output, rules or ()):
        catalog = rule_folders.load_catalog(rules)
        compiled = CompiledRules(catalog)
        cases = read_cases(catalog.folders, catalog.facts)
        results = rule_tests.run_tests(compiled, cases)
        hunt = try_mutants(compiled, cases) if mutants else None
        cases_for = list(suggest_cases(compiled, hunt.survivors)) if hunt is not None and suggest else []
        if json_:
            typer.echo(encode_json(build_test(results, hunt), indent=2), nl=False)
        else:
            print_tests(results, hunt, cases_for)
    raise typer.Exit(0 if results.passed and (hunt is None or not hunt.survivors) else 1)


def diff(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="Folder of rules; - for the shipped rules.", show_default=False)
    ],
    new: Annotated[
        Path, typer.Argument(metavar="NEW", help="Folder of rules; - for the shipped rules.", show_default=False)
    ],
    output: opt.Output = None,
) -> None:
    """Print the situations that two sets of rules answer differently, as Markdown.

    A folder with a facts.yaml is a complete set of rules; any other folder is a layer over the shipped rules.
    """
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.diff import compare_catalogs, format_markdown
    from optadvise.rulebase.catalog import load

    before, after = ([] if str(folder) == "-" else [folder] for folder in (old, new))
    rule_folders.remember_folders([*before, *after])
    _prepare(output, [*before, *after])
    _write(format_markdown(compare_catalogs(load(before), load(after))), output)


def graph(
    plot: Annotated[Path | None, opt.option("Draw to this file: flow.svg, .png or .pdf.", group="Output")] = None,
    rules: opt.Rules = None,
) -> None:
    """Print the decision tables and the flowchart of the guide as Mermaid text, or draw them with --plot.

    The guide is an article that the rules encode; optadvise --help has its title and address.
    """
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.graph import draw_flowchart, draw_tables, format_mermaid

    compiled = rule_folders.load_rules(rules)
    graphs = [draw_tables(compiled), draw_flowchart(compiled)]
    if plot is None:
        typer.echo("\n".join(f"%% {graph.title}\n{format_mermaid(graph)}" for graph in graphs), nl=False)
        return
    from optadvise.render.plots.graph import draw_graphs

    draw_graphs(graphs, plot)


def schema(
    kind: Annotated[str | None, typer.Argument(help="Kind of file: table, optimizer, policy … (default: all).")] = None,
    output: Annotated[
        Path | None,
        opt.option("Write one file per kind to this folder.", "--output", "-o", group="Output", metavar="DIR"),
    ] = None,
    rules: opt.Rules = None,
) -> None:
    """Print the JSON Schemas of rule files, for completion and checks in editors."""
    from optadvise.core.errors import suggest_name
    from optadvise.core.result_schema import format_schema
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.json_schema import schemas

    documents = schemas(rule_folders.load_catalog(rules))
    if kind is not None and kind not in documents:
        hint = suggest_name(kind, documents)
        accepted = ", ".join(documents)
        message = f"{kind!r} is not a kind of rule file; {f'{hint} ' if hint else ''}accepted: {accepted}"
        raise InputError(message, code=ErrorCode.UNKNOWN_CHOICE, value=kind)
    if output is None:
        typer.echo(format_schema(documents if kind is None else documents[kind]), nl=False)
        return
    from optadvise.core.files import write_output_folder

    names = documents if kind is None else [kind]
    write_output_folder(output, {f"{name}.json": format_schema(documents[name]) for name in names}, "--output")


def docs(output: opt.Output = None, rules: opt.Rules = None) -> None:
    """Print all rules as a Markdown page."""
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.docs_page import format_rules_page

    _prepare(output, rules or ())
    _write(format_rules_page(rule_folders.load_rules(rules)), output)


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.", show_default=False)]) -> None:
    """Write a commented rule layer to start from, which passes all checks."""
    from optadvise.rule_analysis.starter import write_starter
    from optadvise.rulebase.catalog import load

    files = write_starter(folder, load())
    for file in files:
        typer.echo(clean_text(str(file)))
    typer.echo(f"Next: optadvise rules check --rules {shlex.quote(clean_text(str(folder)))}")


def _prepare(file: Path | None, inputs: Iterable[Path]) -> None:
    """Create the folder of an output file, and check that the file is not in one of the inputs."""
    if file is not None:
        from optadvise.core.files import create_output_folder

        create_output_folder(file.parent, "--output")
        places({"--output": file}, inputs)


def _write(text: str, file: Path | None) -> None:
    """Write a text to a file, or to stdout."""
    if file is None:
        typer.echo(text, nl=False)
        return
    from optadvise.core.files import write_output

    write_output(file, text, "--output")
