"""`optadvise list` and `optadvise show`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.cli.outputs import redirect_to
from optadvise.core.cards import FAMILIES
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, check_choice
from optadvise.core.json_text import encode_json

if TYPE_CHECKING:
    from optadvise.core.cards import Optimizer
    from optadvise.rulebase.catalog import Catalog
    from optadvise.rulebase.table_records import Rule

_FILTERS, _LISTS = "Filters", "Other lists"
_SELECTED = ("model", "architecture", "objective")  # facts of a name after --for


def list_(
    family: Annotated[
        str | None,
        opt.option(
            "Optimizers of this family (free: no learning rate to set).", "--family", group=_FILTERS, choices=FAMILIES
        ),
    ] = None,
    max_state_bytes: Annotated[
        float | None,
        opt.option("At most this many bytes of optimizer state per fp32 parameter.", group=_FILTERS, metavar="N"),
    ] = None,
    suits: Annotated[
        str | None,
        opt.option(
            "For this kind of model: transformer, cnn, llm, bert …; with --recipes also for a task or method.",
            "--for", group=_FILTERS, metavar="NAME",
            completer=of("model"),
        ),
    ] = None,
    tree: Annotated[bool, opt.option("Print the optimizers as a family tree.", "--tree", group="Output")] = False,
    schedules: Annotated[bool, opt.option("List schedules.", "--schedules", group=_LISTS)] = False,
    claims: Annotated[
        bool, opt.option("List claims about optimizers, for optadvise verify.", "--claims", group=_LISTS)
    ] = False,
    gpus: Annotated[bool, opt.option("List GPUs for --gpu.", "--gpus", group=_LISTS)] = False,
    networks: Annotated[bool, opt.option("List networks for --arch.", "--networks", group=_LISTS)] = False,
    recipes: Annotated[
        bool, opt.option("List published training runs; see --for.", "--recipes", group=_LISTS)
    ] = False,
    rules: opt.Rules = None,
    json_: opt.Json = False,
    output: opt.Output = None,
) -> None:  # fmt: skip
    """List optimizers with their state and tuning effort; or schedules, claims, GPUs, networks or recipes."""
    from optadvise.rule_analysis import rule_folders

    filters = {"--family": family, "--max-state-bytes": max_state_bytes, "--for": suits, "--tree": tree or None}
    used = [flag for flag, value in filters.items() if value is not None]
    others = {"--schedules": schedules, "--claims": claims, "--gpus": gpus, "--networks": networks,
              "--recipes": recipes}  # fmt: skip
    chosen = [flag for flag, is_set in others.items() if is_set]
    refused = [flag for flag in used if not (recipes and flag == "--for")]
    conflict = [*chosen, *refused] if chosen else ["--tree", "--json"] if tree and json_ else []
    if len(conflict) > 1:
        message = f"{conflict[0]} and {conflict[1]} exclude each other; use one of them"
        raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option=conflict[1])
    if max_state_bytes is not None and not max_state_bytes >= 0:
        message = f"--max-state-bytes {max_state_bytes}: must be a number from 0"
        raise InputError(message, code=ErrorCode.OUT_OF_RANGE, option="--max-state-bytes", value=max_state_bytes)
    catalog = rule_folders.load_catalog(rules)
    if family is not None:
        check_choice("--family", family, FAMILIES)
    selected = {} if suits is None else _parse_selection(catalog, suits, accept_tasks=recipes)
    with redirect_to(output, rules or ()):
        if chosen:
            _OTHER_LISTS[chosen[0]](catalog, json_, selected)
            return
        _print_optimizers(
            _filter_cards(catalog, family, selected.get("model"), max_state_bytes), as_tree=tree, as_json=json_
        )


def _parse_selection(catalog: Catalog, text: str, *, accept_tasks: bool) -> Mapping[str, object]:
    """Return the facts that a name after `--for` states."""
    from optadvise.advice.model_names import find_model_name

    spelled = text.strip().lower()
    for fact in (catalog.facts["task"], catalog.facts["method"]):
        if spelled in (fact.values or {}):
            if not accept_tasks:
                message = f"--for {text!r}: a {fact.id} selects published runs only; add --recipes"
                raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option="--for", value=text)
            return {fact.id: spelled}
    return {name: value for name, value in find_model_name(catalog, text, "--for").facts.items() if name in _SELECTED}


def _filter_cards(
    catalog: Catalog, family: str | None, suits: object, max_state_bytes: float | None
) -> list[Optimizer]:
    from optadvise.memory.optimizer_state import compute_state_bytes_per_parameter

    return [
        card
        for card in (catalog.optimizer(name) for name in catalog.optimizer_ids)
        if (family is None or card.family == family)
        and (suits is None or suits in card.model_types)
        and (max_state_bytes is None or compute_state_bytes_per_parameter(card.state) <= max_state_bytes)
    ]


def _print_optimizers(cards: list[Optimizer], *, as_tree: bool, as_json: bool) -> None:
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render

    if as_tree:
        render.print_tree(cards)
    elif as_json:
        _print_json(records.list_optimizers(cards))
    else:
        render.print_optimizers(cards)


def _print_schedules(catalog: Catalog, as_json: bool, _: Mapping[str, object]) -> None:
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render

    schedulers = [catalog.scheduler(name) for name in catalog.scheduler_ids]
    if as_json:
        _print_json(records.list_schedules(schedulers, catalog))
    else:
        render.print_schedules(schedulers)


def _print_claims(catalog: Catalog, as_json: bool, _: Mapping[str, object]) -> None:
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render

    if as_json:
        _print_json(records.list_claims(catalog.claims.values()))
    else:
        from optadvise.evidence import store

        render.print_claims(catalog, {finding.id: finding for finding in store.find_decided_claims(catalog)})


def _print_gpus(catalog: Catalog, as_json: bool, _: Mapping[str, object]) -> None:
    from optadvise.render.inventory import list_gpus
    from optadvise.render.text.inventory import print_gpus

    gpus = list_gpus(catalog)
    if as_json:
        _print_json(gpus)
    else:
        print_gpus(gpus)


def _print_networks(catalog: Catalog, as_json: bool, _: Mapping[str, object]) -> None:
    from optadvise.render.inventory import list_networks
    from optadvise.render.text.inventory import print_networks

    networks = list_networks(catalog)
    if as_json:
        _print_json(networks)
    else:
        print_networks(networks)


def _print_recipes(catalog: Catalog, as_json: bool, selected: Mapping[str, object]) -> None:
    from optadvise.render.inventory import list_recipes
    from optadvise.render.text.inventory import print_recipes

    recipes = list_recipes(catalog, selected)
    if as_json:
        _print_json(recipes)
    else:
        print_recipes(recipes)


_OTHER_LISTS: dict[str, Callable[[Catalog, bool, Mapping[str, object]], None]] = {  # with the facts of --for
    "--schedules": _print_schedules, "--claims": _print_claims, "--gpus": _print_gpus, "--networks": _print_networks,
    "--recipes": _print_recipes,
}  # fmt: skip


def _print_json(record: object) -> None:
    typer.echo(encode_json(record, indent=2), nl=False)


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Optimizer, schedule, rule or claim, in any spelling.",
            autocompletion=of("optimizers", "schedules", "rules", "claims"),
        ),
    ],
    rules: opt.Rules = None,
    json_: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Print the card of an optimizer or schedule, a rule with its source and tests, or a claim with its outcome."""
    from optadvise.rule_analysis import rule_folders

    catalog = rule_folders.load_catalog(rules)
    rule = catalog.rule(name)
    kind, key = ("rule", "") if rule is not None else catalog.find(name)
    with redirect_to(output, rules or ()):
        if rule is not None:
            _show_rule(rule, catalog, as_json=json_)
        elif kind == "optimizer":
            _show_optimizer(key, catalog, as_json=json_)
        elif kind == "claim":
            _show_claim(key, catalog, as_json=json_)
        else:
            _show_schedule(key, catalog, as_json=json_)


def _show_rule(rule: Rule, catalog: Catalog, *, as_json: bool) -> None:
    """Print a rule with its published runs, and the claims that support it and were tested on this machine."""
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.advice.support import count_support
    from optadvise.evidence import store
    from optadvise.render.rules import build_rule
    from optadvise.render.text.rule import print_rule

    claims = [claim for claim in store.find_decided_claims(catalog) if rule.id in claim.supports]
    support = count_support(CompiledRules(catalog)).get(rule.id)
    if as_json:
        _print_json(build_rule(rule, claims, support))
    else:
        print_rule(rule, catalog, claims, support)


def _show_optimizer(name: str, catalog: Catalog, *, as_json: bool) -> None:
    from optadvise.advice.compiled_rules import CompiledRules
    from optadvise.advice.decide import find_guide_buffers
    from optadvise.evidence import store
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render

    buffers = find_guide_buffers(CompiledRules(catalog), name)
    card = catalog.optimizer(name)
    evidence = store.find_evidence(catalog, card)
    card = records.drop_refuted_reasons(card, evidence)
    if as_json:
        _print_json(records.build_optimizer(card, catalog, buffers, evidence))
    else:
        render.print_optimizer(card, catalog, buffers, evidence)


def _show_claim(name: str, catalog: Catalog, *, as_json: bool) -> None:
    from optadvise.evidence import store
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render

    claim = catalog.claims[name]
    finding = next((one for one in store.find_decided_claims(catalog) if one.id == name), None)
    if as_json:
        _print_json(records.build_claim(claim, finding))
    else:
        render.print_claim(claim, catalog, finding)


def _show_schedule(name: str, catalog: Catalog, *, as_json: bool) -> None:
    from optadvise.render import catalog as records
    from optadvise.render.text import catalog as render

    scheduler = catalog.scheduler(name)
    if as_json:
        _print_json(records.build_schedule(scheduler, catalog))
    else:
        render.print_schedule(scheduler, catalog)
