"""What an audit found: as a table, as a page of Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape

from optadvise.render.console import Page, heading, titled
from optadvise.verify.run import ABSENT, CONFORMS, QUANTISED, percent

_SOUND = (CONFORMS, QUANTISED)


def as_json(result: Mapping[str, Any]) -> str:
    """Return an audit as one JSON object."""
    return json.dumps(_finite(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Return a value with what JSON has no number for as null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value - value != 0 else value


def text(result: Mapping[str, Any]) -> None:
    """Print an audit."""
    with Page() as out:
        for title, audits in _sorted(result["audits"]):
            if not audits:
                continue
            out.print(heading(title) if title else "")
            table = titled(2, ("", "left"), ("", "left"), ("furthest off", "right"), ("", "wrap"))
            for one in audits:
                table.add_row("", one["optimizer"], one["implementation"], _off(one["worst"]), escape(_words(one)))
            out.print(table)
        out.print(
            "\nFurthest off: after 1, 5 and 12 steps in fp32, as a share of the way that the reference in float64 went."
        )


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
    """Return an audit as Markdown."""
    where = result["environment"]
    machine = where.get("processor") or where.get("platform")
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items() if version)
    lines = ["# Audit of installed optimizers", "", f"optadvise {result['optadvise']} on {machine}, with {packages}."]
    for title, audits in _sorted(result["audits"]):
        if audits:
            lines += [
                "",
                f"## {title}",
                "",
                "| optimizer | implementation | furthest off | what was found |",
                "|---|---|---|---|",
            ]
            lines += [f"| {_cells(one)} |" for one in audits]
    return "\n".join(lines) + "\n"


def _cells(one: Mapping[str, Any]) -> str:
    cells: Sequence[str] = (f"`{one['optimizer']}`", f"`{one['import']}`", _off(one["worst"]), _words(one))
    return " | ".join(cell.replace("|", "\\|") for cell in cells)
