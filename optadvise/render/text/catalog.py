"""Cards, lists and the family tree as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import to_builtins
from msgspec.structs import asdict, replace
from rich.console import Console
from rich.markup import escape

from optadvise.core.errors import near
from optadvise.core.findings import REFUTED, ClaimFinding, Evidence
from optadvise.core.records import SHIPPED, Claim, Implementation, Optimizer, Scheduler
from optadvise.core.units import show_number
from optadvise.evidence.apply import describe_refutation
from optadvise.memory import state_bytes_per_parameter
from optadvise.render.json import evidence as evidence_data
from optadvise.render.text import evidence
from optadvise.render.text.console import Page, grid, heading, titled
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import written

_SHARDED = {"none": "DDP", "zero1": "ZeRO-1", "fsdp": "FSDP2"}
_HUGGING_FACE = "hf"  # the framework whose name JSON has a key of its own for


def per_parameter(card: Optimizer) -> float:
    """Return bytes of state per fp32 parameter, on a large matrix."""
    return state_bytes_per_parameter(card.state)


def _bytes(value: float) -> str:
    return "0" if value == 0 else "< 0.01" if value < 0.01 else f"{value:.2f}"


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


def optimizers(cards: Sequence[Optimizer], *, as_json: bool) -> None:
    """Print one line per optimizer."""
    if as_json:
        _print_json({"schema_version": 1, "kind": "list", "optimizers": [_brief(card) for card in cards]})
        return
    with Page() as out:
        table = titled(2, ("optimizer", "left"), ("state B/p", "right"), ("effort", "left"), ("", "wrap"))
        for card in sorted(cards, key=lambda c: (per_parameter(c), c.id)):
            table.add_row("", card.id, _bytes(per_parameter(card)), card.effort, escape(card.summary))
        out.print(table)
        out.print("\nState in bytes per fp32 parameter of a large matrix. optadvise show NAME prints a card.")


def schedules(cards: Sequence[Scheduler], catalog: Catalog, *, as_json: bool) -> None:
    """Print one line per schedule."""
    if as_json:
        _print_json(
            {"schema_version": 1, "kind": "list", "schedules": [_schedule_data(card, catalog) for card in cards]}
        )
        return
    with Page() as out:
        table = titled(2, ("schedule", "left"), ("shape", "left"), ("", "wrap"))
        for card in cards:
            table.add_row("", card.id, escape(card.shape), escape(card.summary))
        out.print(table)


def claims(found: Sequence[Claim], *, as_json: bool) -> None:
    """Print one line per claim."""
    if as_json:
        _print_json({"schema_version": 1, "kind": "list", "claims": [_claim_data(claim) for claim in found]})
        return
    with Page() as out:
        table = titled(2, ("claim", "left"), ("", "wrap"))
        for claim in found:
            table.add_row("", claim.id, escape(f"{claim.claim} [{', '.join(claim.cite)}]"))
        out.print(table)
        out.print("\noptadvise verify --claim ID tests one here, --all every one.")


def _claim_data(claim: Claim) -> dict[str, Any]:
    names = ("id", "claim", "says", "experiment", "measures", "seeds", "limits", "needs")
    data: dict[str, Any] = {name: getattr(claim, name) for name in names}
    return {**data, "cite": list(claim.cite), "optimizers": list(claim.optimizers), "supports": list(claim.supports)}


def tree(cards: Sequence[Optimizer]) -> None:
    """Print the family tree; a card with two parents stands under the first and names the other."""
    from rich.tree import Tree

    known = {card.id for card in cards}
    with Page() as out:
        root = Tree("gradient descent")
        nodes: dict[str, Tree] = {}
        waiting = sorted(cards, key=lambda c: (c.year, c.id))
        while waiting:
            left = []
            for card in waiting:
                parents = [p for p in card.parents if p in known]
                if parents and parents[0] not in nodes:
                    left.append(card)
                    continue
                also = f" [dim]also from {', '.join(parents[1:])}[/dim]" if parents[1:] else ""
                above = nodes[parents[0]] if parents else root
                nodes[card.id] = above.add(f"[bold]{card.id}[/bold] [dim]{card.year}[/dim]{also}")
            if len(left) == len(waiting):  # parents in a circle: show what is left flat
                nodes.update({card.id: root.add(card.id) for card in left})
                break
            waiting = left
        out.print(root)


def optimizer(card: Optimizer, catalog: Catalog, buffers: float | None, found: Evidence, *, as_json: bool) -> None:
    """Print an optimizer's card.

    Args:
        card: The optimizer.
        catalog: Where sources and frameworks are looked up.
        buffers: What the guide gives it per parameter, None where it gives none.
        found: What was found on this machine; a sentence that rests on what was refuted is left out.
        as_json: Print JSON.
    """
    fallen = {claim.id for claim in found.refuted}
    card = replace(
        card,
        use_when=tuple(reason for reason in card.use_when if reason.claim not in fallen),
        avoid_when=tuple(reason for reason in card.avoid_when if reason.claim not in fallen),
    )
    if as_json:
        told = {**_optimizer_data(card, catalog), "evidence": evidence_data(None, found)}
        _print_json({"schema_version": 1, "kind": "optimizer", "guide_buffers": buffers, **told})
        return
    with Page() as out:
        lineage = f", from {' and '.join(card.parents)}" if card.parents else ""
        out.print(f"[bold]{escape(card.name)}[/bold]  ({card.id})  {card.family} family, {card.year}{lineage}")
        out.print(escape(card.summary))
        if card.aliases:
            out.print(f"[dim]also {escape(', '.join(card.aliases))}[/dim]")
        out.print(heading("Update"))
        for line in card.equation:
            out.print(f"  {escape(line)}")
        _hyperparameters(out, card)
        _state(out, card, buffers)
        for implementation in card.implementations:
            _implementation(out, implementation)
        _bullets(
            out,
            "Called so, and not offered",
            (f"{made.path}" + (f": {made.note}" if made.note else "") for made in card.not_offered),
        )
        _bullets(out, evidence.HEADING, evidence.lines(found))
        if card.companion:
            out.print(f"\nNeeds {card.companion['optimizer']} beside it for {escape(card.companion['for'])}.")
        if card.schedules:
            out.print(f"\nRuns under these schedules only: {', '.join(card.schedules)}.")
        _bullets(out, "Use when", (reason.text for reason in card.use_when))
        _bullets(out, "Avoid when", (reason.text for reason in card.avoid_when))
        _bullets(out, "Notes", (f"{note.text} [{', '.join(note.cite)}]" for note in card.notes))
        table = grid("left", "wrap")
        table.add_row("", "effort to tune", card.effort)
        table.add_row("", "suits", ", ".join(card.suits) or "nothing in particular")
        for name, own in _called(catalog, card).items():
            table.add_row("", catalog.frameworks[name].name, escape(own or "not by name"))
        out.print(heading("Elsewhere"))
        out.print(table)
        _sources(out, card.cite, catalog)


def _hyperparameters(out: Console, card: Optimizer) -> None:
    out.print(heading("Hyperparameters"))
    table = titled(2, ("", "left"), ("default", "left"), ("usual", "left"), ("", "wrap"))
    for h in card.hyperparameters:
        usual = "" if h.low is None or h.high is None else f"{show_number(h.low)} … {show_number(h.high)}"
        table.add_row("", h.name, escape(written(h.default)), usual, escape(h.meaning))
    out.print(table)


def _state(out: Console, card: Optimizer, buffers: float | None) -> None:
    out.print(heading(f"State: {_bytes(per_parameter(card))} bytes per fp32 parameter of a large matrix"))
    table = grid("left", "left", "wrap")
    for tensor in card.state:
        size = f"{tensor.elements} per optimizer" if tensor.per == "optimizer" else f"one per {tensor.per}"
        size += f" of {tensor.block}" if tensor.per == "block" else ""
        limits = [f"from {tensor.min_elements} elements"] if tensor.min_elements else []
        limits += [f"up to {tensor.max_elements} elements"] if tensor.max_elements is not None else []
        dtype = "as the weight" if tensor.dtype == "parameter" else tensor.dtype
        table.add_row("", tensor.name, dtype, ", ".join([size, *limits]))
    out.print(table if card.state else "  none")
    if buffers is not None:
        out.print(f"  The guide counts {buffers:g}× the parameters, of four bytes each.")


def _arguments(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


def _implementation(out: Console, implementation: Implementation) -> None:
    out.print(heading(f"{implementation.id}: {implementation.path}"))
    table = grid("left", "wrap")
    source = f"pip install {implementation.package}" if implementation.package else "not on PyPI"
    source += f", version {implementation.min_version} or later" if implementation.min_version else ""
    table.add_row("", "package", source)
    table.add_row("", "devices", ", ".join(implementation.devices))
    if implementation.kwargs:
        table.add_row("", "always", escape(_arguments(implementation.kwargs)))
    if implementation.variants:
        table.add_row("", "variants", ", ".join(implementation.variants))
    if implementation.sharding:
        words = [f"{_SHARDED[shard]} {told}" for shard, told in implementation.sharding.items()]
        words += [f"{_SHARDED[shard]} with {_arguments(kwargs)}" for shard, kwargs in implementation.on_shard.items()]
        table.add_row("", "sharded", escape("; ".join(words)))
    if implementation.deviates:
        by = implementation.deviates.get("by")
        table.add_row("", "[bold]deviates[/bold]", escape(f"{by}: {implementation.deviates['in']}"))
    if implementation.note:
        table.add_row("", "note", escape(implementation.note))
    out.print(table)


def schedule(card: Scheduler, catalog: Catalog, *, as_json: bool) -> None:
    """Print a schedule's card."""
    if as_json:
        _print_json({"schema_version": 1, "kind": "schedule", **_schedule_data(card, catalog)})
        return
    with Page() as out:
        out.print(f"[bold]{escape(card.name)}[/bold]  ({card.id})  {escape(card.shape)}")
        out.print(escape(card.summary))
        out.print(heading("Phases"))
        table = grid("wrap")
        for phase in card.phases:
            arguments = ", ".join(f"{k}={v}" for k, v in phase.kwargs.items())
            table.add_row("", escape(f"{phase.path}({arguments})"))
        out.print(table)
        _bullets(out, "Use when", card.use_when)
        _bullets(out, "Avoid when", card.avoid_when)
        out.print(heading("Elsewhere"))
        table = grid("left", "wrap")
        for name, own in _called(catalog, card).items():
            table.add_row("", catalog.frameworks[name].name, escape(own or "not by name"))
        out.print(table)
        _sources(out, card.cite, catalog)


def _called(catalog: Catalog, card: Optimizer | Scheduler) -> dict[str, str | None]:
    """Return what each framework that has names of its own calls an optimizer or a schedule."""
    found: dict[str, str | None] = {}
    for key, framework in catalog.frameworks.items():
        if isinstance(card, Optimizer) and framework.optimizers:
            own = framework.by_name(card)
            found[key] = None if own is None else own.name
        elif isinstance(card, Scheduler) and framework.schedules:
            found[key] = framework.schedules[card.id].name if card.id in framework.schedules else None
    return found


def _elsewhere(catalog: Catalog, card: Optimizer | Scheduler) -> dict[str, Any]:
    called = _called(catalog, card)
    return {"huggingface": called.get(_HUGGING_FACE), "frameworks": called}


def rule(row: Mapping[str, Any], catalog: Catalog, tested: Sequence[ClaimFinding], *, as_json: bool) -> None:
    """Print a rule: what, why, source, example.

    Args:
        row: Its document.
        catalog: Where its table is looked up.
        tested: Claims that it repeats and that were decided here; a reason that was refuted gives way to the figure.
        as_json: Print JSON.
    """
    fallen = next((claim for claim in tested if claim.verdict == REFUTED), None)
    if fallen is not None and "because" in row:
        row = {**row, "because": describe_refutation(fallen)}
    if as_json:
        _print_json({"schema_version": 1, "kind": "rule", **row, "claims": to_builtins(tested)})
        return
    with Page() as out:
        out.print(f"[bold]{row['id']}[/bold]  {row.get('name', 'otherwise')}, in table {row['table']}")
        whose = "" if row["layer"] == SHIPPED else f", from {row['layer']}"
        out.print(f"[dim]{escape(near(row['at']) + whose)}[/dim]")
        out.print(heading("When"))
        table = grid("left", "wrap")
        for name, condition in row.get("when", {}).items():
            table.add_row("", name, escape(_condition(condition)))
        out.print(table if row.get("when") else "  nothing else applies")
        out.print(heading("Then"))
        table = grid("left", "wrap")
        for name, value in row["then"].items():
            if isinstance(value, dict):
                for number, (key, text) in enumerate(value.items()):
                    table.add_row("", name if number == 0 else "", escape(f"{key}: {text}"))
            else:
                table.add_row("", name, escape(str(value)))
        out.print(table)
        if "because" in row:
            out.print(heading("Because"))
            table = grid("wrap")
            table.add_row("", escape(row["because"]))
            out.print(table)
        _bullets(out, evidence.HEADING, evidence.lines(Evidence(claims=tuple(tested))))
        if row.get("overrides"):
            out.print(f"\nOverrides {', '.join(row['overrides'])}.")
        over = [other["id"] for other in catalog.documents["tables"][row["table"]]["rules"]
                if row["id"] in other.get("overrides", ())]  # fmt: skip
        if over:
            out.print(f"\nOverridden by {', '.join(over)}, where they apply.")
        _bullets(out, "Example", (f"{_facts(t['given'])} → {_facts(t['expect'])}" for t in row.get("tests", ())))
        _sources(out, row["cite"], catalog)


def _condition(condition: Iterable[Any]) -> str:
    return ", ".join(_interval(item) if isinstance(item, list) else str(item) for item in condition)


def _interval(item: Sequence[Any]) -> str:
    low, low_closed, high, high_closed = item
    if low is None and high is None:
        return "known"
    if low == high:
        return f"{low:g}"
    if low is None:
        return f"{'<=' if high_closed else '<'} {high:g}"
    if high is None:
        return f"{'>=' if low_closed else '>'} {low:g}"
    return f"{'[' if low_closed else '('}{low:g} .. {high:g}{']' if high_closed else ')'}"


def _facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'unknown' if value is None else written(value)}" for name, value in facts.items())


def _bullets(out: Console, title: str, lines: Iterable[str]) -> None:
    table = grid("left", "wrap")
    for line in lines:
        table.add_row("", "·", escape(line))
    if table.row_count:
        out.print(heading(title))
        out.print(table)


def _sources(out: Console, cites: Iterable[str], catalog: Catalog) -> None:
    out.print(heading("Sources"))
    table = grid("wrap")
    for cite in cites:
        source = catalog.sources[cite]
        by = f"{source.authors}, " if source.authors else ""
        year = f", {source.year}" if source.year else ""
        table.add_row("", escape(f"{cite}: {by}{source.title}{year}, {source.url}"))
    out.print(table)


def _brief(card: Optimizer) -> dict[str, Any]:
    return {
        "id": card.id,
        "name": card.name,
        "family": card.family,
        "parents": list(card.parents),
        "year": card.year,
        "summary": card.summary,
        "effort": card.effort,
        "suits": list(card.suits),
        "state_bytes_per_parameter": round(per_parameter(card), 4),
    }


def _optimizer_data(card: Optimizer, catalog: Catalog) -> dict[str, Any]:
    return {
        **_brief(card),
        "aliases": list(card.aliases),
        "equation": list(card.equation),
        "hyperparameters": [asdict(h) for h in card.hyperparameters],
        "state": [asdict(t) for t in card.state],
        "implementations": [_implementation_data(i) for i in card.implementations],
        "not_offered": [_implementation_data(i) for i in card.not_offered],
        **_elsewhere(catalog, card),
        "companion": dict(card.companion) if card.companion else None,
        "schedules": list(card.schedules) if card.schedules else None,
        "use_when": [reason.text for reason in card.use_when],
        "avoid_when": [reason.text for reason in card.avoid_when],
        "notes": [{"text": n.text, "cite": list(n.cite)} for n in card.notes],
        "cite": list(card.cite),
    }


def _implementation_data(implementation: Implementation) -> dict[str, Any]:
    data = asdict(implementation)
    data["import"] = data.pop("path")
    data["devices"] = list(implementation.devices)
    for name in ("kwargs", "on_cpu", "arguments", "variants", "sharding", "on_shard"):
        data[name] = dict(data[name])
    data["state"] = None if implementation.state is None else [asdict(t) for t in implementation.state]
    return data


def _schedule_data(card: Scheduler, catalog: Catalog) -> dict[str, Any]:
    data = {**asdict(card), **_elsewhere(catalog, card)}
    data["phases"] = [{"shape": p.shape, "import": p.path, "kwargs": dict(p.kwargs)} for p in card.phases]
    data["notes"] = [{"text": n.text, "cite": list(n.cite)} for n in card.notes]
    for name in ("aliases", "parameters", "milestones", "use_when", "avoid_when", "cite"):
        data[name] = list(data[name])
    return data
