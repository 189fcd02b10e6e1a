"""`optadvise rules`: the rule base itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.help import GroupedCommand, format_epilog
from optadvise.core.errors import InputError
from optadvise.core.json_text import encode_json

_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
_Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write it there.", show_default=False)]
_EXAMPLES = {
    "check": ("optadvise rules check --rules examples/team-rules",),
    "test": ("optadvise rules test --mutants",),
    "diff": ("optadvise rules diff rules examples/team-rules",),
    "graph": ("optadvise rules graph --out flow.svg",),
    "schema": ("optadvise rules schema --out rules/schema",),
    "docs": ("optadvise rules docs --out docs/rules.md",),
    "init": ("optadvise rules init our-rules",),
}


def group() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(help="The rule base itself: prove, test, compare and describe it.", no_args_is_help=True,
                      rich_markup_mode=None)  # fmt: skip
    for command in (check, run_tests, diff, graph, schema, docs, init):
        name = "test" if command is run_tests else command.__name__
        app.command(name, cls=GroupedCommand, epilog=format_epilog(*_EXAMPLES[name]))(command)
    return app


def check(rules: opt.Rules = None, json_: _Json = False) -> None:
    """Prove the rules: no gaps, no contradictions, no row that never wins. Exit code 1 if not.

    Every finding names its line, and the situation in which it shows as a command line.
    """
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.memory.networks import load_networks
    from optadvise.render.rules import build_check
    from optadvise.render.text.rules import print_proofs
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.check import prove_rules

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
    mutants: Annotated[bool, typer.Option("--mutants", help="Also change each row, which should be noticed.")] = False,
    suggest: Annotated[bool, typer.Option("--suggest", help="Print cases for what was not noticed.")] = False,
    json_: _Json = False,
) -> None:
    """Run the tests that stand beside the rules. Exit code 1 if one fails, or a rule has none.

    Examples are in each row, cases of whole tables under cases/. With --mutants, rows are deleted and conditions
    widened one at a time, and what neither proofs nor tests notice is told.
    """
    if suggest and not mutants:
        raise InputError("--suggest: only mutants need cases; say --mutants too")
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.render.rules import build_test
    from optadvise.render.text.rules import print_tests
    from optadvise.rule_analysis import rule_folders, rule_tests
    from optadvise.rule_analysis.mutants import suggest_cases, try_mutants
    from optadvise.rulebase.case_files import read_cases

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
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A folder of rules.", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another.", show_default=False)],
    out: _Out = None,
) -> None:
    """Tell exactly which situations two sets of rules answer differently, as Markdown.

    A folder with a facts.yaml is a whole set of rules, any other a layer over those that are shipped; - is the shipped
    rules alone.
    """
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.diff import compare_catalogs, format_markdown
    from optadvise.rulebase.catalog import load

    before, after = ([] if str(folder) == "-" else [folder] for folder in (old, new))
    rule_folders.remember_folders([*before, *after])
    _write(format_markdown(compare_catalogs(load(before), load(after))), out)


def graph(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A picture: flow.svg, .png or .pdf.")] = None,
    rules: opt.Rules = None,
) -> None:
    """Draw the chain of tables and the guide's flowchart: as Mermaid text, or with --out as a picture."""
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.graph import draw_flowchart, draw_tables, format_mermaid

    compiled = rule_folders.load_rules(rules)
    graphs = [draw_tables(compiled), draw_flowchart(compiled)]
    if out is None:
        typer.echo("\n".join(f"%% {graph.title}\n{format_mermaid(graph)}" for graph in graphs), nl=False)
        return
    from optadvise.render.plots.graph import draw_graphs

    draw_graphs(graphs, out)


def schema(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="table, optimizer, policy … (default: all).")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder to write one file each into.")] = None,
    rules: opt.Rules = None,
) -> None:
    """Print the JSON Schema of rule files, by which editors complete and check them."""
    from optadvise.core.errors import suggest_name
    from optadvise.core.result_schema import format_schema
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.json_schema import schemas

    documents = schemas(rule_folders.load_catalog(rules))
    if kind is not None and kind not in documents:
        hint = suggest_name(kind, documents)
        accepted = ", ".join(documents)
        raise InputError(f"{kind!r}: not a kind of rule file; {f'{hint} ' if hint else ''}accepted: {accepted}")
    if out is None:
        typer.echo(format_schema(documents if kind is None else documents[kind]), nl=False)
        return
    for name in documents if kind is None else [kind]:
        _write(format_schema(documents[name]), out / f"{name}.json")


def docs(out: _Out = None, rules: opt.Rules = None) -> None:
    """Print every rule in words, as a page of Markdown."""
    from optadvise.rule_analysis import rule_folders
    from optadvise.rule_analysis.docs_page import format_rules_page

    _write(format_rules_page(rule_folders.load_rules(rules)), out)


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.", show_default=False)]) -> None:
    """Write a commented folder of rules to begin with, which passes every check."""
    from optadvise.rule_analysis.starter import write_starter
    from optadvise.rulebase.catalog import load

    files = write_starter(folder, load())
    for file in files:
        typer.echo(file)
    typer.echo(f"next: optadvise rules check --rules {folder}")


def _write(text: str, out: Path | None) -> None:
    """Write a text to a file in a folder that is made if need be, or to stdout."""
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {str(out)!r}: cannot be written ({error.strerror}); name another file") from error
