"""What `optadvise doctor` found, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from optadvise.core.units import show_bytes
from optadvise.render.text.console import Page, grid, heading


def report(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was found.

    Args:
        found: What `optadvise.diagnostics.doctor.examine` returned.
        as_json: As it is.
    """
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    with Page() as out:
        out.print(escape(f"optadvise {found['optadvise']}, Python {found['python']} on {found['platform']}"))
        _devices(out, found)
        _packages(out, found)
        _optimizers(out, found)


def _devices(out: Console, found: Mapping[str, Any]) -> None:
    out.print(heading("Devices"))
    table = grid("left", "right", "wrap")
    for device in found["devices"]:
        about = [device["name"] or "unknown"]
        about += [f"compute {device['compute_capability']}"] if device["compute_capability"] else []
        about += [f"{device['threads']} threads in torch"] if device["threads"] else []
        about += [f"driver {device['driver']}"] if device["driver"] else []
        about += [f"not usable: {device['why_not']}"] if not device["usable"] else []
        memory = "" if device["memory_bytes"] is None else show_bytes(device["memory_bytes"])
        table.add_row("", device["device"] or device["kind"], memory, escape(", ".join(about)))
    out.print(table)
    if found["torch"]["why_no_cuda"] and not any(device["kind"] == "cuda" for device in found["devices"]):
        _line(out, f"No CUDA device: {found['torch']['why_no_cuda']}.")
    if found["driver_problem"]:
        _line(out, f"{found['driver_problem']}. Drivers, and GPUs that torch does not see, are not listed.")


def _packages(out: Console, found: Mapping[str, Any]) -> None:
    out.print(heading("Packages"))
    table = grid("left", "left", "wrap")
    for package, version in found["packages"].items():
        remark = "" if version else f"pip install {package}"
        if package == "torch":
            remark = f"built for {found['torch']['built_for']}" if found["torch"]["imports"] else "cannot be imported"
        table.add_row("", package, escape(version or "none"), escape(remark))
    out.print(table)


def _optimizers(out: Console, found: Mapping[str, Any]) -> None:
    cards = found["optimizers"]
    if found["torch"]["error"] is not None:
        out.print(heading("Optimizers"))
        _line(out, f"None of the {len(cards)} runs: {found['torch']['error']}.")
        return
    running = [card for card in cards if card["runs"]]
    _table(out, f"Optimizers that run here: {len(running)} of {len(cards)}", running, "implementation")
    _table(out, "Not by their first choice", (card for card in running if card["note"]), "note")
    _table(out, "Do not run here", (card for card in cards if not card["runs"]), "why_not")


def _line(out: Console, words: str) -> None:
    table = grid("wrap")
    table.add_row("", escape(words))
    out.print(table)


def _table(out: Console, title: str, cards: Iterable[Mapping[str, Any]], column: str) -> None:
    table = grid("left", "wrap")
    for card in cards:
        table.add_row("", card["id"], escape(card[column]))
    if table.row_count:
        out.print(heading(title))
        out.print(table)
