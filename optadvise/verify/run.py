"""Audits implementations in a process of their own, and says what each is worth. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from optadvise.benchmark.environment import read_machine
from optadvise.core.findings import ABSENT, CONFORMS, DEVIATES, FAILS, QUANTISED
from optadvise.core.records import Implementation, Optimizer
from optadvise.core.version import __version__
from optadvise.rulebase.catalog import Catalog
from optadvise.verify.target import RESUMED_ELSEWHERE, Subject, of_card
from optadvise.verify.worker_client import WORKER, Worker

_EXACT = 1e-3  # a share beyond which quantisation shows
TIMEOUT = 60.0  # seconds of one implementation, its import among them


class Entry(Struct, frozen=True):
    """What is audited, and what is said of it."""

    card: Optimizer
    made: Implementation
    subject: Subject
    offered: bool = True
    remedy: str | None = None  # where it cannot be imported; None: what its card says


def entries(catalog: Catalog, names: Iterable[str]) -> list[Entry]:
    """Return every implementation of some optimizers, those that are not offered too.

    Args:
        catalog: The cards.
        names: Canonical ids.
    """
    found = []
    for name in names:
        card = catalog.optimizer(name)
        for made in (*card.implementations, *card.not_offered):
            found.append(Entry(card, made, of_card(catalog, card, made), made in card.implementations))
    return found


def audited(
    asked: Sequence[Entry], *, told: Callable[[Entry], None] = lambda entry: None,
    command: Sequence[str] = WORKER, timeout: float = TIMEOUT,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield what was found of each, as it comes. A worker that hangs or dies is replaced for those after it.

    Args:
        asked: What is audited.
        told: Is told what is looked at now.
        command: The worker's command line, for tests of its faults.
        timeout: Seconds that one may take.
    """
    auditor, other = Worker(command), Worker(command)
    try:
        for entry in asked:
            told(entry)
            answer = auditor.ask(_question(entry), timeout)
            run = answer.pop("run", None)
            if run is not None:
                found = other.ask(_question(entry, run), timeout)
                lost = {"name": RESUMED_ELSEWHERE, "verdict": "fails", "words": found.get("error")}
                answer["checks"].append(lost if "error" in found else found)
            yield {**_about(entry), **judged(answer, said=entry.made.deviates is not None, offered=entry.offered)}
    finally:
        auditor.stop()
        other.stop()


def _question(entry: Entry, run: str | None = None) -> dict[str, Any]:
    return {"ask": "audit", "subject": asdict(entry.subject), "package": entry.made.package, "run": run,
            "remedy": entry.remedy}  # fmt: skip


def _about(entry: Entry) -> dict[str, Any]:
    return {
        "optimizer": entry.card.id,
        "implementation": entry.made.id,
        "import": entry.made.path,
        "package": entry.made.package,
        "offered": entry.offered,
        "said": entry.made.deviates["in"] if entry.made.deviates else entry.made.note if not entry.offered else None,
    }


def judged(answer: Mapping[str, Any], *, said: bool, offered: bool) -> dict[str, Any]:
    """Return the verdict on what a worker found.

    Args:
        answer: What it found.
        said: The card says that it deviates.
        offered: The card offers it.
    """
    nothing: dict[str, Any] = {"worst": None, "scenes": [], "checks": [], "suspect": None}
    if "missing" in answer:
        return {"verdict": ABSENT, "why": answer["missing"], "expected": True, **nothing}
    if "error" in answer:
        return {"verdict": FAILS, "why": answer["error"], "expected": not offered, **nothing}
    scenes, checks = answer["scenes"], answer["checks"]
    broken = [scene for scene in scenes if scene["error"]]
    off = [scene for scene in scenes if not scene["error"] and scene["share"] > scene["allowed"]]
    wrong = [check for check in checks if check["verdict"] != "ok"]
    exact = [scene["share"] for scene in scenes if not scene["error"] and scene["scene"] != "half"]
    coarse = any(scene["bits"] < 32 and scene["share"] > _EXACT for scene in scenes if not scene["error"])
    sentences = [answer["suspect"]] if answer["suspect"] else []
    if off and not sentences:
        sentences.append("; ".join(f"{percent(scene['share'])} off for {scene['words']}" for scene in off[:3]))
    sentences += [f"raises for {scene['words']} ({scene['error']})" for scene in broken[:1]]
    if not any(scene["scene"] == "plain" for scene in broken):
        sentences += [f"{check['name']}: {check['words']}" for check in wrong]
    if answer["refused"]:
        sentences.append(f"takes no {', '.join(answer['refused'])}")
    verdict = (
        FAILS if any(scene["scene"] == "plain" for scene in broken)
        else DEVIATES if off or broken or wrong
        else QUANTISED if coarse else CONFORMS
    )  # fmt: skip
    return {
        "verdict": verdict,
        "why": "; ".join(sentences) or None,
        "expected": verdict in (CONFORMS, QUANTISED) or said or not offered,
        "worst": max(exact, default=None),
        "scenes": scenes,
        "checks": checks,
        "suspect": answer["suspect"],
    }


def _versions(packages: Iterable[str | None]) -> dict[str, str | None]:
    """Return the version of every package that was looked at, None where it is not here."""
    versions: dict[str, str | None] = {}
    for package in sorted({"torch", *(name for name in packages if name)}):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def percent(share: float) -> str:
    """Return a share in words.

    Example:
        >>> percent(0.016), percent(2.157), percent(1e9)
        ('1.6 %', '216 %', 'over 10,000 %')
    """
    if share > 100:
        return "over 10,000 %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def result(found: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the JSON of `optadvise verify`.

    Args:
        found: What was found of each implementation.
        claims: What was found of each claim.
    """
    run = [made for claim in claims for made in claim["implementations"]]
    return {
        "schema_version": 1,
        "kind": "verify",
        "optadvise": __version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "environment": {**asdict(read_machine()), "packages": _versions(one["package"] for one in (*found, *run))},
        "audits": [dict(one) for one in found],
        "claims": [dict(one) for one in claims],
    }
