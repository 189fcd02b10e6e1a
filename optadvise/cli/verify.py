"""`optadvise verify`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optadvise.cli import options as opt
from optadvise.cli.complete import of
from optadvise.core.errors import InputError

if TYPE_CHECKING:
    from optadvise.core.records import Claim
    from optadvise.rulebase.catalog import Catalog

_OWN, _CLAIMS, _HOW = "Your own", "Claims", "How it is done"


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Optimizers to audit; all unless said.", autocompletion=of("optimizers")),
    ] = None,
    claim: Annotated[
        list[str] | None,
        opt.option("Test this claim instead; may repeat.", "--claim", group=_CLAIMS, words=of("claims")),
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        opt.option(
            "Audit this one and test the claims about it; may repeat.", "--optimizer", group=_CLAIMS,
            words=of("optimizers"),
        ),
    ] = None,
    all_: Annotated[bool, opt.option("Audit all and test every claim: some minutes.", "--all", group=_CLAIMS)] = False,
    import_: Annotated[
        str | None, opt.option("Your own class instead: my_package.MyAdamW.", "--import", group=_OWN)
    ] = None,
    as_: Annotated[
        str | None, opt.option("Which optimizer it says it is.", "--as", group=_OWN, words=of("optimizers"))
    ] = None,
    timeout: Annotated[float, opt.option("Seconds of one audit or claim; 60 unless said.", group=_HOW)] = 60.0,
    json_: Annotated[str | None, opt.option("Write JSON to this file; - for stdout.", "--json", group="Output")] = None,
    markdown: Annotated[Path | None, opt.option("Write a Markdown page to this file.", group="Output")] = None,
    rules: opt.Rules = None,
) -> None:  # fmt: skip
    """Audit installed optimizers, and test what is claimed of them, on this machine.

    An audit steps each beside a float64 reference of its paper, over shapes, starts, decays, rates and dtypes, and uses
    it as trainings do. A claim is an experiment with fixed seeds (optadvise list --claims shows all). Exit code 1: an
    optimizer deviates that its card does not tell of, your own does, or a claim named by --claim is refuted; 5: one
    named so is not decidable here.
    """
    from optadvise.cli import outputs
    from optadvise.evidence import store
    from optadvise.render.text import verify as render
    from optadvise.rule_analysis import rule_folders
    from optadvise.verify import claims, run

    files = outputs.places({"--json": None if json_ == "-" else json_, "--markdown": markdown})
    if not 0 < timeout < float("inf"):
        raise InputError(f"--timeout {timeout:g}: must be above 0 seconds, and a number")
    catalog = rule_folders.catalog(rules)
    _one_of({"names": names, "--claim": claim, "--optimizer": optimizer, "--all": all_, "--import": import_})
    if (import_ is None) != (as_ is None):
        raise InputError("--import and --as belong together: --import my_package.MyAdamW --as adamw")
    chosen: list[Claim] = []
    if claim or optimizer or all_:
        about = _ids(catalog, optimizer, "--optimizer") if optimizer else None
        chosen = claims.chosen(catalog, claim or (), about)
    entries: list[Any] = []
    if import_ is not None:
        entries = _own(catalog, import_, str(as_))
    elif not claim:
        entries = run.entries(catalog, _ids(catalog, optimizer or names, "verify") or catalog.optimizer_ids)
    progress = _Progress(len(entries) + len(chosen))
    found: list[dict[str, Any]] = []
    tested: list[dict[str, Any]] = []
    interrupted = False
    try:
        for one in run.audited(entries, told=lambda entry: progress.told(entry.made.path), timeout=timeout):
            found.append(one)
        for answer in claims.outcomes(catalog, chosen, told=progress.seed, timeout=timeout) if chosen else ():
            tested.append(answer)
    except KeyboardInterrupt:  # what there is is kept and shown
        interrupted = True
    progress.end()
    result = run.result(found, tested)
    if import_ is None:
        outputs.kept(lambda: store.save_verified(result, catalog.claims))
    outputs.shown(render, result, files, as_json=json_ == "-")
    if interrupted:
        raise KeyboardInterrupt
    raise typer.Exit(_claims_code(tested) if claim else _audits_code(found))


def _one_of(given: dict[str, Any]) -> None:
    said = [name for name, value in given.items() if value]
    if len(said) > 1:
        raise InputError(f"{said[0]} and {said[1]}: each says what is looked at; leave one of them out")


def _audits_code(found: Sequence[dict[str, Any]]) -> int:
    from optadvise.core.findings import ABSENT

    here = [one for one in found if one["verdict"] != ABSENT]
    if not here:
        return 4
    return 0 if all(one["expected"] for one in here) else 1


def _claims_code(tested: Sequence[dict[str, Any]]) -> int:
    from optadvise.core.findings import REFUTED, UNDECIDED

    verdicts = {one["verdict"] for one in tested}
    if REFUTED in verdicts:
        return 1
    if UNDECIDED not in verdicts:
        return 0
    return 4 if all(one["seconds"] is None for one in tested) else 5  # what was never begun could not run here


def _ids(catalog: Catalog, names: Sequence[str] | None, flag: str) -> list[str]:
    return list(dict.fromkeys(catalog.find_optimizer(name, flag) for name in names or ()))


def _own(catalog: Any, path: str, name: str) -> list[Any]:
    """Return somebody's own class as what it says it is."""
    from optadvise.core.records import Implementation
    from optadvise.verify.run import Entry
    from optadvise.verify.target import imported

    if "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"--import {path!r}: is no import path; write my_package.module.MyAdamW")
    card = catalog.optimizer(catalog.find_optimizer(name, "--as"))
    subject = imported(catalog, card, path)
    made = Implementation(path.rsplit(".", 1)[1], path, None, ("cpu",))
    return [Entry(card, made, subject, remedy="install its package, or run this in the folder that holds it")]


class _Progress:
    """What is looked at now, in one line that is written over on a terminal."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen: list[str] = []

    def told(self, name: str, more: str = "") -> None:
        """Tell of an audit or a claim."""
        if name not in self._seen:
            self._seen.append(name)
        if sys.stderr.isatty():
            line = f"{len(self._seen)} of {self._count}: {name}{more}"
            print(f"\r{line[:78]:<78}", end="", file=sys.stderr, flush=True)

    def seed(self, claim: Claim, seed: int) -> None:
        """Tell of a claim's seed."""
        self.told(claim.id, f", seed {seed + 1} of {claim.seeds}" if claim.seeds > 1 else "")

    def end(self) -> None:
        """Leave the line."""
        if self._seen and sys.stderr.isatty():
            print(file=sys.stderr)
