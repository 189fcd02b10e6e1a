"""`optadvise list` and `optadvise show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli.complete import among, of
from optadvise.core.cards import FAMILIES
from optadvise.core.errors import check_choice
from optadvise.core.json_text import encode_json
from optadvise.rulebase.table_records import Rule

if TYPE_CHECKING:
    from optadvise.core.findings import ClaimFinding
    from optadvise.rulebase.catalog import Catalog


def list_(
    family: Annotated[
        str | None, typer.Option(help="sgd, adaptive, sign, layerwise, matrix or free.", autocompletion=among(FAMILIES))
    ] = None,
    max_state_bytes: Annotated[
        float | None, typer.Option(min=0, help="At most so many bytes of state per fp32 parameter.")
    ] = None,
    suits: Annotated[
        str | None,
        typer.Option("--for", help="Suits this kind of model: transformer, cnn …", autocompletion=of("model")),
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="As a family tree.")] = False,
    schedules: Annotated[bool, typer.Option("--schedules", help="The schedules instead.")] = False,
    claims: Annotated[bool, typer.Option("--claims", help="What optadvise verify can test, instead.")] = False,
    rules: Annotated[
        list[Path] | None, typer.Option("--rules", metavar="DIR", help="A folder of further rules; may repeat.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the catalogue: optimizers with their state and effort, schedules, or claims."""
    from optadvise.memory.optimizer_state import state_bytes_per_parameter
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render
    from optadvise.rule_analysis import rule_folders

    catalog = rule_folders.load_catalog(rules)
    models = catalog.facts["model"].values or {}
    if family is not None:
        check_choice("--family", family, FAMILIES)
    if suits is not None:
        check_choice("--for", suits, models)
    if schedules:
        schedulers = [catalog.scheduler(name) for name in catalog.scheduler_ids]
        if json_:
            _print_json(records.list_schedules(schedulers, catalog))
        else:
            render.print_schedules(schedulers)
        return
    if claims:
        if json_:
            _print_json(records.list_claims(catalog.claims.values()))
        else:
            render.print_claims(catalog.claims.values())
        return
    cards = [
        card
        for card in (catalog.optimizer(name) for name in catalog.optimizer_ids)
        if (family is None or card.family == family)
        and (suits is None or suits in card.model_types)
        and (max_state_bytes is None or state_bytes_per_parameter(card.state) <= max_state_bytes)
    ]
    if tree:
        render.print_tree(cards)
    elif json_:
        _print_json(records.list_optimizers(cards))
    else:
        render.print_optimizers(cards)


def _print_json(record: object) -> None:
    typer.echo(encode_json(record, indent=2), nl=False)


def _show_rule(rule: Rule, catalog: Catalog, claims: list[ClaimFinding], *, as_json: bool) -> None:
    """Show a rule with the claims that it repeats and that were decided here."""
    from optadvise.render.rules import build_rule
    from optadvise.render.text.rule import print_rule

    if as_json:
        _print_json(build_rule(rule, claims))
    else:
        print_rule(rule, catalog, claims)


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="An optimizer, a schedule or a rule, in any spelling.",
            autocompletion=of("optimizers", "schedules", "rules"),
        ),
    ],
    rules: Annotated[
        list[Path] | None, typer.Option("--rules", metavar="DIR", help="A folder of further rules; may repeat.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show one optimizer's card, one schedule's, or one rule with its source and examples."""
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render
    from optadvise.rule_analysis import rule_folders

    catalog = rule_folders.load_catalog(rules)
    rule = catalog.rule(name)
    if rule is not None:
        from optadvise.evidence import store

        tested = [claim for claim in store.find_decided_claims(catalog) if rule.id in claim.supports]
        _show_rule(rule, catalog, tested, as_json=json_)
        return
    kind, found = catalog.find(name)
    if kind == "optimizer":
        from optadvise.advice.compiled_rules import CompiledRules
        from optadvise.advice.decide import find_guide_buffers
        from optadvise.evidence import store

        buffers = find_guide_buffers(CompiledRules(catalog), found)
        card = catalog.optimizer(found)
        evidence = store.find_evidence(catalog, card)
        card = records.drop_refuted_reasons(card, evidence)
        if json_:
            _print_json(records.build_optimizer(card, catalog, buffers, evidence))
        else:
            render.print_optimizer(card, catalog, buffers, evidence)
        return
    scheduler = catalog.scheduler(found)
    if json_:
        _print_json(records.build_schedule(scheduler, catalog))
    else:
        render.print_schedule(scheduler, catalog)
