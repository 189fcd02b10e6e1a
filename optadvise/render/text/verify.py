"""What audits and experiments found: as a table, as a page of Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape

from optadvise.core.findings import ABSENT, CONFIRMED, CONFORMS, QUANTISED, REFUTED, UNDECIDED
from optadvise.evidence.apply import format_figure
from optadvise.render.text.console import Page, grid, heading, titled
from optadvise.verify.run import percent

_SOUND = (CONFORMS, QUANTISED)


def as_json(result: Mapping[str, Any]) -> str:
    """Return what was found as one JSON object."""
    return json.dumps(_finite(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Return a value with what JSON has no number for as null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value - value != 0 else value


def text(result: Mapping[str, Any]) -> None:
    """Print what was found of implementations and of claims."""
    with Page() as out:
        for title, audits in _sorted(result["audits"]):
            if not audits:
                continue
            out.print(heading(title) if title else "")
            table = titled(2, ("", "left"), ("", "left"), ("furthest off", "right"), ("", "wrap"))
            for one in audits:
                table.add_row("", one["optimizer"], one["implementation"], _off(one["worst"]), escape(_words(one)))
            out.print(table)
        if result["audits"]:
            out.print(f"\n{_FURTHEST}")
        for title, claims in by_verdict(result["claims"]):
            out.print(heading(title.capitalize()))
            table = grid("left", "wrap")
            for claim in claims:
                table.add_row("", "·", f"[bold]{escape(claim['claim'])}[/bold] [dim]{claim['id']}[/dim]")
                table.add_row("", "", escape(_claim_words(claim)))
            out.print(table)


_FURTHEST = "Furthest off: after 1, 5 and 12 steps in fp32, as a share of the way that the reference in float64 went."


def by_verdict(claims: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return claims by their verdicts, what is refuted first; no verdict that there is none of."""
    found = [(verdict, [claim for claim in claims if claim["verdict"] == verdict])
             for verdict in (REFUTED, CONFIRMED, UNDECIDED)]  # fmt: skip
    return [(verdict, those) for verdict, those in found if those]


def _claim_words(claim: Mapping[str, Any]) -> str:
    """Return what was measured of a claim, and what there is to say of it."""
    if claim["measured"] is None:
        return _remarks(claim)
    measured = f"{_capital(claim['measures'])}: {_figure(claim)}{_over(claim)}, claimed {claim['holds']}."
    return f"{measured} {_remarks(claim)}"


def _figure(claim: Mapping[str, Any]) -> str:
    return format_figure(claim["measured"], claim["ci95"])


def _over(claim: Mapping[str, Any]) -> str:
    seeds = len(claim["figures"])
    return f" on {claim['device']}" if seeds == 1 else f" over seeds 0 to {seeds - 1} on {claim['device']}"


def _remarks(claim: Mapping[str, Any]) -> str:
    """Return why a claim is open, what the experiment cannot say, and where it is refuted the source's own words."""
    sentences = [f"{_capital(claim['why'])}."] if claim["why"] else []
    sentences += [
        f"Run with {made['import']}, which deviates." for made in claim["implementations"]
        if made["deviates"] and claim["figures"]
    ]  # fmt: skip
    if claim["figures"] and claim["limits"]:
        sentences.append(claim["limits"])
    if claim["verdict"] == REFUTED and claim["says"]:
        sentences.append(f"{claim['cite'][0]} says: “{claim['says']}”")
    return " ".join(sentences)


def _capital(words: str) -> str:
    """Return words as a sentence begins, unless the first is a name of code."""
    return words if "." in words.split(" ", 1)[0] else f"{words[:1].upper()}{words[1:]}"


def _sorted(audits: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return audits under headings: what nobody knew of first."""
    found: dict[str, list[Mapping[str, Any]]] = {
        "Not what its name says, and not known to be": [], "Not what its name says, as its card tells": [],
        "Called so by others, and not offered": [], "What its name says": [], "Not here": [],
    }  # fmt: skip
    titles = list(found)
    for one in audits:
        kind = (
            4 if one["verdict"] == ABSENT
            else 3 if one["verdict"] in _SOUND
            else 2 if not one["offered"]
            else 1 if one["expected"] else 0
        )  # fmt: skip
        found[titles[kind]].append(one)
    return list(found.items())


def _off(share: float | None) -> str:
    if share is None:
        return "–"
    return "< 0.01 %" if share < 1e-4 else percent(share)


def _words(one: Mapping[str, Any]) -> str:
    """Return what was found, and what the card says of it where nothing better is known."""
    verdict, why = one["verdict"], one["why"]
    if verdict == ABSENT:
        return str(why)
    if verdict not in _SOUND and one["suspect"] is None and one["said"]:
        why = f"{why}. {one['said']}" if why else one["said"]
    return f"{verdict}: {why}" if why else str(verdict)


def as_markdown(result: Mapping[str, Any]) -> str:
    """Return what was found as Markdown."""
    where = result["environment"]
    machine = where.get("processor") or where.get("platform")
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items() if version)
    title = "Claims, tested" if not result["audits"] else "Audit of installed optimizers"
    about = f"optadvise {result['optadvise']} on {machine}, {where['cores']} cores, {result['date']}, with {packages}."
    return "\n".join([f"# {title}", "", about, *audits_markdown(result), *claims_markdown(result)]) + "\n"


def audits_markdown(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the audits."""
    lines: list[str] = []
    for title, audits in _sorted(result["audits"]):
        if audits:
            lines += ["", f"## {title}", "", "| optimizer | implementation | furthest off | what was found |",
                      "|---|---|---|---|"]  # fmt: skip
            lines += [f"| {_cells(one)} |" for one in audits]
    return [*lines, "", _FURTHEST] if lines else []


def claims_markdown(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the claims."""
    lines: list[str] = []
    for verdict, claims in by_verdict(result["claims"]):
        lines += ["", f"## {verdict.capitalize()}", "", "| claim | measured | claimed | |", "|---|---|---|---|"]
        for claim in claims:
            measured = "–" if claim["measured"] is None else f"{_figure(claim)}{_over(claim)}"
            words = f"{_capital(claim['measures'])}. " if claim["measures"] else ""
            words += f"{_remarks(claim)} `{claim['id']}`, from {', '.join(claim['cite'])}".strip()
            cells = (claim["claim"], measured, claim["holds"] or "–", words)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def _cells(one: Mapping[str, Any]) -> str:
    cells: Sequence[str] = (f"`{one['optimizer']}`", f"`{one['import']}`", _off(one["worst"]), _words(one))
    return " | ".join(cell.replace("|", "\\|") for cell in cells)
