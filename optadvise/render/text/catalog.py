"""Lists, cards and the family tree of the catalog as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from optadvise.core.cards import (
    AGREES,
    SHARDING_LABELS,
    Hyperparameter,
    Implementation,
    Optimizer,
    Scheduler,
    StateTensor,
    Value,
)
from optadvise.core.claim_cards import Claim
from optadvise.core.findings import ClaimFinding, Evidence
from optadvise.memory.optimizer_state import REFERENCE_SHAPE, compute_state_bytes_per_parameter
from optadvise.render import evidence, headings
from optadvise.render.catalog import name_in_frameworks
from optadvise.render.labels import describe_variant, format_choice, format_range, format_state_bytes
from optadvise.render.text.console import (
    Column,
    Page,
    format_heading,
    print_call,
    print_paragraph,
    print_rows,
    print_section,
    print_unbroken,
)
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.condition_text import format_condition
from optadvise.rulebase.hyperparameters import format_value

_GUIDE_BYTES = 4  # per number in the guide
_REFERENCE = f"{REFERENCE_SHAPE[0]:,} × {REFERENCE_SHAPE[1]:,} matrix"
_STATE = f"state: optimizer state in bytes per fp32 parameter of a {_REFERENCE}"
_VARIES = "*: depends on the network; optadvise estimate --all computes it for a model"
_LEGEND = """tuning: effort to find good hyperparameters
optadvise show NAME prints details."""
_SHAPELESS = ("element", "block", "tensor", "optimizer")  # kinds of state without rows, columns and ranks
_MATRICES = {
    "row-square": "rows × rows", "column-square": "columns × columns",
    "long-side": "longer side × rank {rank}", "short-side": "shorter side × rank {rank}",
}  # fmt: skip
_ERROR = "raises an error, because "  # start of most results of a sharding that fails


def print_optimizers(cards: Sequence[Optimizer]) -> None:
    """Print a line for each optimizer, the least state first."""
    state = {card.id: compute_state_bytes_per_parameter(card.state) for card in cards}
    varying = {card.id for card in cards if _depends_on_shapes(card)}
    rows = []
    for card in sorted(cards, key=lambda card: (state[card.id], card.id)):
        mark = ["*" * (card.id in varying)] if varying else []
        rows.append([card.id, format_state_bytes(state[card.id]), *mark, card.effort, escape(card.summary)])
    columns: list[Column] = [("optimizer", "left"), ("state", "right"), ("tuning", "left"), ("", "wrap")]
    if varying:
        columns.insert(2, ("", "left"))
    with Page() as out:
        print_rows(out, rows, *columns)
        out.print("\n" + "\n".join([_STATE, *([_VARIES] if varying else []), _LEGEND]))


def _depends_on_shapes(card: Optimizer) -> bool:
    """Return whether the state per parameter of large tensors depends on their shapes or on the kind of layer."""
    return card.companion is not None or any(tensor.per not in _SHAPELESS for tensor in card.state)


def print_schedules(cards: Sequence[Scheduler]) -> None:
    """Print a line for each schedule."""
    with Page() as out:
        rows = [(card.id, escape(card.shape), escape(card.summary)) for card in cards]
        print_rows(out, rows, ("schedule", "left"), ("shape", "left"), ("", "wrap"))


def print_claims(catalog: Catalog, findings: Mapping[str, ClaimFinding]) -> None:
    """Print each claim with its outcome and sources.

    Args:
        findings: Results on this machine by the id of the claim.
    """
    with Page() as out:
        out.print("Claims of papers, the guide and the authors of optadvise; some are false.")
        out.print(escape(f"[measured]: {catalog.sources['measured'].title}"))
        for claim in catalog.claims.values():
            out.print(f"\n[bold]{claim.id}[/bold]")
            print_paragraph(out, escape(claim.claim))
            outcome = evidence.describe_outcome(claim, findings.get(claim.id))
            print_paragraph(out, escape(" ".join([outcome, *([claim.limits] if claim.limits else [])])))
            print_unbroken(out, f"[{', '.join(claim.cite)}]")
        out.print("\noptadvise verify --claim ID tests one claim on this machine, verify --all tests all.")


def print_claim(claim: Claim, catalog: Catalog, finding: ClaimFinding | None) -> None:
    """Print a claim.

    Args:
        finding: Result of its experiment on this machine; None without one.
    """
    rows = [
        ("quote", claim.quote),
        ("optimizers", ", ".join(claim.optimizers)),
        ("measured quantity", claim.measures),
        ("claimed range", claim.expected_range and format_condition([claim.expected_range])),
        ("limits", claim.limits),
        ("rules", ", ".join(claim.supports)),
        ("outcome", evidence.describe_outcome(claim, finding)),
    ]
    with Page() as out:
        out.print(f"[bold]{claim.id}[/bold]")
        print_paragraph(out, escape(claim.claim))
        print_section(out, "Details", [(label, escape(text)) for label, text in rows if text], "left", "wrap")
        print_sources(out, claim.cite, catalog)
        if claim.experiment is not None:
            out.print(f"\noptadvise verify --claim {claim.id} tests it on this machine.")


def print_tree(cards: Iterable[Optimizer]) -> None:
    """Print the family tree; a card with several parents is below its first parent and lists the others."""
    waiting = sorted(cards, key=lambda card: (card.year, card.id))
    ids = {card.id for card in waiting}
    root = Tree("gradient descent")
    nodes: dict[str, Tree] = {}
    while waiting:
        orphans = []
        for card in waiting:
            parents = [parent for parent in card.parents if parent in ids]
            if parents and parents[0] not in nodes:
                orphans.append(card)
                continue
            also = f" [dim](also from {', '.join(parents[1:])})[/dim]" if parents[1:] else ""
            branch = nodes[parents[0]] if parents else root
            nodes[card.id] = branch.add(f"[bold]{card.id}[/bold] [dim]{card.year}[/dim]{also}")
        if len(orphans) == len(waiting):  # a cycle of parents
            nodes.update({card.id: root.add(card.id) for card in orphans})
            break
        waiting = orphans
    with Page() as out:
        out.print(root)


def print_optimizer(card: Optimizer, catalog: Catalog, guide_buffers: float | None, measured: Evidence) -> None:
    """Print an optimizer's card.

    Args:
        guide_buffers: State per parameter by the guide in fp32 numbers, None where the guide gives no figure.
    """
    with Page() as out:
        lineage = f", derived from {' and '.join(card.parents)}" if card.parents else ""
        out.print(f"[bold]{escape(card.name)}[/bold]  ({card.id})  {card.year}{lineage}")
        out.print(escape(card.summary))
        if card.aliases:
            out.print(f"[dim]Aliases: {escape(', '.join(card.aliases))}[/dim]")
        out.print(format_heading("Update"))
        for line in card.equation:
            out.print(f"  {escape(line)}")
        _print_hyperparameters(out, card)
        _print_state(out, card, guide_buffers)
        for implementation in card.implementations:
            is_recommended = implementation is card.implementations[0] and len(card.implementations) > 1
            _print_implementation(out, implementation, is_recommended=is_recommended)
        unused = (other.path + (f": {other.note}" if other.note else "") for other in card.not_offered)
        print_bullets(out, "Implementations not used", unused)
        print_bullets(out, headings.MEASURED, evidence.list_sentences(measured))
        if card.companion:
            out.print(f"\nRequires {card.companion.optimizer} for {escape(card.companion.tensors)}.")
        if card.schedules:
            out.print(f"\nSupported schedules: {', '.join(card.schedules)}.")
        print_bullets(out, "Use when", (reason.text for reason in card.use_when))
        print_bullets(out, "Avoid when", (reason.text for reason in card.avoid_when))
        print_bullets(out, headings.NOTES, (f"{note.text} [{', '.join(note.cite)}]" for note in card.notes))
        models = ", ".join(card.model_types) or "no particular kind"
        family = format_choice(catalog.facts["family"], card.family)
        details = [("family", family), ("tuning effort", card.effort), ("common for", models)]
        print_section(out, "Details", details, "left", "wrap")
        print_section(out, "Names in other frameworks", _list_names(catalog, card), "left", "wrap")
        print_sources(out, card.cite, catalog)


def _print_hyperparameters(out: Console, card: Optimizer) -> None:
    rows = [
        (
            number.name,
            escape(format_value(number.default)),
            format_range(number.low, number.high),
            escape(_describe_hyperparameter(number)),
        )
        for number in card.hyperparameters
    ]
    out.print(format_heading("Hyperparameters"))
    print_rows(out, rows, ("", "left"), ("default", "left"), ("typical range", "left"), ("", "wrap"))


def _describe_hyperparameter(number: Hyperparameter) -> str:
    """Return what a hyperparameter means, and the value that published runs use instead of its default."""
    if number.published is None:
        return number.meaning
    published = number.published
    kinds = f"{', '.join(published.model_types)} ({', '.join(published.tasks)})"
    return f"{number.meaning} For {kinds} {format_value(published.value)}: {published.because}."


def _print_state(out: Console, card: Optimizer, guide_buffers: float | None) -> None:
    state = format_state_bytes(compute_state_bytes_per_parameter(card.state))
    out.print(format_heading(f"State: {state} bytes per fp32 parameter of a {_REFERENCE}"))
    if card.state:
        rows = []
        for tensor in card.state:
            dtype = "dtype of the weight" if tensor.dtype == "parameter" else tensor.dtype
            rows.append((tensor.name, dtype, _describe_tensor(tensor)))
        print_rows(out, rows, "left", "left", "wrap")
    else:
        out.print("  No state.")
    if guide_buffers is not None:
        stated = f"{_GUIDE_BYTES * guide_buffers:g} bytes per parameter"
        out.print(f"  The guide states {stated} (for the guide see optadvise --help).")


def _describe_tensor(tensor: StateTensor) -> str:
    matrix = _MATRICES.get(tensor.per, "").format(rank=tensor.rank)
    size = f"{tensor.elements} per optimizer" if tensor.per == "optimizer" else matrix or f"one per {tensor.per}"
    size += f" of {tensor.block}" if tensor.per == "block" else ""
    limits = [f"at least {tensor.min_elements:,}"] if tensor.min_elements else []
    limits += [f"at most {tensor.max_elements:,}"] if tensor.max_elements is not None else []
    return f"{size}, for tensors with {' and '.join(limits)} elements" if limits else size


def _print_implementation(out: Console, implementation: Implementation, *, is_recommended: bool) -> None:
    source = f"pip install {implementation.package}" if implementation.package else "not on PyPI"
    source += f" (version {implementation.min_version} or later)" if implementation.min_version else ""
    rows = [
        ("package", source),
        ("devices", ", ".join(implementation.devices)),
        ("fixed arguments", _format_arguments(implementation.kwargs)),
        ("steps of the run", ", ".join(implementation.step_arguments)),
        ("variants", ", ".join(describe_variant(implementation, name) for name in implementation.variants)),
        ("sharding", _describe_sharding(implementation)),
        ("[bold]deviation[/bold]", ""),
        ("note", implementation.note or ""),
    ]
    if implementation.deviates:
        rows[-2] = (rows[-2][0], f"{implementation.deviates.by}: {implementation.deviates.in_}")
    cells = [(label, escape(text)) for label, text in rows if text]
    title = f"{implementation.id}: {implementation.path}" + " (recommended)" * is_recommended
    print_section(out, title, cells, "left", "wrap")


def _describe_sharding(implementation: Implementation) -> str:
    """Return with which sharding a step computes the same result as one process, and with which it fails."""
    results = implementation.sharding
    same = ", ".join(SHARDING_LABELS[shard] for shard, result in results.items() if result == AGREES)
    failures = (
        f"{SHARDING_LABELS[shard]} ({result.removeprefix(_ERROR)})"
        for shard, result in results.items() if result != AGREES
    )  # fmt: skip
    failed = ", ".join(failures)
    parts = [f"same result as one process: {same}"] * bool(same) + [f"fails: {failed}"] * bool(failed)
    parts += [
        f"{SHARDING_LABELS[shard]} requires {_format_arguments(kwargs)}"
        for shard, kwargs in implementation.sharding_kwargs.items() if results
    ]  # fmt: skip
    return "; ".join(parts)


def _format_arguments(kwargs: Mapping[str, Value]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


def print_schedule(card: Scheduler, catalog: Catalog) -> None:
    """Print a schedule's card."""
    with Page() as out:
        out.print(f"[bold]{escape(card.name)}[/bold]  ({card.id})  {escape(card.shape)}")
        out.print(escape(card.summary))
        out.print(format_heading("Phases"))
        for phase in card.phases:
            arguments = ", ".join(f"{name}={value}" for name, value in phase.kwargs.items())
            print_call(out, f"{phase.path}({arguments})")
        if any("$" in str(value) for phase in card.phases for value in phase.kwargs.values()):
            print_paragraph(out, "$NAME: computed from the run's steps, warmup and learning rate")
        print_bullets(out, "Use when", card.use_when)
        print_bullets(out, "Avoid when", card.avoid_when)
        out.print(format_heading("Names in other frameworks"))
        print_rows(out, _list_names(catalog, card), "left", "wrap")
        print_sources(out, card.cite, catalog)


def _list_names(catalog: Catalog, card: Optimizer | Scheduler) -> list[tuple[str, str]]:
    """Return the frameworks, each with its name for an optimizer or a schedule."""
    names = name_in_frameworks(catalog, card)
    return [
        (catalog.frameworks[key].name, escape(name or "no name for exactly this optimizer"))
        for key, name in names.items()
    ]


def print_bullets(out: Console, title: str, lines: Iterable[str]) -> None:
    """Print a section of plain lines; nothing without lines."""
    print_section(out, title, [("·", escape(line)) for line in lines], "left", "wrap")


def print_sources(out: Console, cites: Iterable[str], catalog: Catalog) -> None:
    """Print sources by their ids, each address on its own line."""
    out.print(format_heading(headings.SOURCES))
    for cite in cites:
        source = catalog.sources[cite]
        authors = f"{source.authors}, " if source.authors else ""
        year = f", {source.year}" if source.year else ""
        print_paragraph(out, escape(f"{cite}: {authors}{source.title}{year}"))
        print_unbroken(out, source.url, indent=4)
