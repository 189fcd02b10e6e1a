"""Claims as experiments: made again here, seed by seed, and judged. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import to_builtins
from msgspec.structs import asdict, replace

from optadvise.benchmark import plan
from optadvise.benchmark.records import Interval
from optadvise.benchmark.spec import Arm
from optadvise.benchmark.statistics import mean_ci
from optadvise.core.errors import InputError, RuleFileError, nearest
from optadvise.core.findings import CONFIRMED, REFUTED, UNDECIDED
from optadvise.core.records import EXPERIMENTS, Claim, Optimizer, Trial
from optadvise.rulebase.catalog import Catalog
from optadvise.verify.worker_client import WORKER, Worker

TIMEOUT = 60.0  # seconds of one claim
STARTS = 120.0  # seconds that the import of torch may take


def chosen(catalog: Catalog, ids: Iterable[str] = (), optimizers: Iterable[str] | None = None) -> list[Claim]:
    """Return claims: those named, or those about some optimizers, or all.

    Args:
        catalog: Has them.
        ids: Which; none for those about the optimizers.
        optimizers: Canonical ids; None for all claims.

    Raises:
        InputError: There is no claim of an id.
    """
    for name in ids:
        if name not in catalog.claims:
            raise InputError(
                f"--claim {name!r}: no such claim; {nearest(name, catalog.claims)}; optadvise list --claims shows all"
            )
    named = list(dict.fromkeys(ids))
    if named:
        return [catalog.claims[name] for name in named]
    wanted = None if optimizers is None else {*optimizers}
    return [claim for claim in catalog.claims.values() if wanted is None or wanted & {*claim.optimizers}]


def outcomes(
    catalog: Catalog, claims: Sequence[Claim], *, told: Callable[[Claim, int], None] = lambda claim, seed: None,
    command: Sequence[str] = WORKER, timeout: float = TIMEOUT,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield what was found of each claim, as it comes.

    Args:
        catalog: Cards and surfaces that claims name.
        claims: What is tested.
        told: Is told the claim and the seed that run now.
        command: The worker's command line, for tests of its faults.
        timeout: Seconds that one claim may take, of which an answer that never comes takes no more either.
    """
    worker = Worker(command)
    try:
        surfaces = {claim.id: _surface(catalog, claim) for claim in claims}  # what is wrong with them comes first
        devices = worker.ask({"ask": "devices"}, STARTS)
        for claim in claims:
            yield _outcome(catalog, claim, devices, surfaces[claim.id], worker, told, timeout)
    finally:
        worker.stop()


def _outcome(
    catalog: Catalog, claim: Claim, here: Mapping[str, Any], surface: Any, worker: Worker,
    told: Callable[[Claim, int], None], timeout: float,
) -> dict[str, Any]:  # fmt: skip
    about = {**_about(claim), "device": None, "implementations": [], "seconds": None}
    if claim.needs is not None:
        return {**about, **judged(claim, [], f"needs {claim.needs}")}
    out = [name for name in claim.optimizers if name not in catalog.optimizer_ids]
    if out:
        return {**about, **judged(claim, [], f"a layer of rules rules {out[0]} out")}
    if "error" in here:
        return {**about, **judged(claim, [], f"the worker {here['error']}; optadvise doctor says why")}
    device = next((one for one in claim.devices if one in here["devices"]), None)
    if device is None:
        return {**about, **judged(claim, [], f"needs {' or '.join(claim.devices)}, which torch does not find here")}
    sides = [_side(catalog.optimizer(trial.optimizer), trial, device) for trial in claim.trials]
    about |= {"device": device, "implementations": [_implementation(side["arm"]) for side in sides]}
    missing = [side["arm"].unsupported for side in sides if side["arm"].unsupported]
    if missing:
        return {**about, **judged(claim, [], missing[0])}
    question = {
        "ask": "experiment", "experiment": claim.experiment, "setting": claim.setting, "device": device,
        "surface": surface, "sides": [_plain(side) for side in sides],
    }  # fmt: skip
    begin = time.monotonic()
    figures: list[float] = []
    why = None
    for seed in range(claim.seeds):
        told(claim, seed)
        left = timeout - (time.monotonic() - begin)
        answer = worker.ask({**question, "seed": seed}, max(left, 0.01))
        if "figure" not in answer:
            over = time.monotonic() - begin >= timeout
            why = f"{len(figures)} of {claim.seeds} seeds in {timeout:g} seconds" if over else (
                answer.get("undecidable") or answer["error"])  # fmt: skip
            break
        figures.append(answer["figure"])
    return {**about, "seconds": round(time.monotonic() - begin, 2), **judged(claim, figures, why)}


def judged(claim: Claim, figures: Sequence[float], why: str | None = None) -> dict[str, Any]:
    """Return the verdict on what was measured.

    Args:
        claim: What is claimed.
        figures: One for each seed.
        why: What kept further ones from being measured; then nothing is decided.
    """
    design = EXPERIMENTS.get(claim.experiment or "")
    mean = mean_ci(figures, ratio=design.ratio) if design and figures else None
    verdict = UNDECIDED
    if why is None and mean is not None:
        ends = mean.interval or Interval(mean.value, mean.value)
        inside = [_outside(ends.high, claim) is None, _outside(ends.low, claim) is None]
        apart = _outside(ends.low, claim) == "above" or _outside(ends.high, claim) == "below"
        verdict = CONFIRMED if all(inside) else REFUTED if apart else UNDECIDED
        if verdict == UNDECIDED:
            why = "the interval reaches over the edge of what is claimed"
    return {
        "verdict": verdict,
        "why": why,
        "measured": None if mean is None else mean.value,
        "ci95": None if mean is None or mean.interval is None else [mean.interval.low, mean.interval.high],
        "figures": list(figures),
    }


def _outside(figure: float, claim: Claim) -> str | None:
    """Return on which side of what is claimed a figure lies, None inside."""
    low, low_closed, high, high_closed = claim.holds
    if low is not None and (figure < low or (figure == low and not low_closed)):
        return "below"
    if high is not None and (figure > high or (figure == high and not high_closed)):
        return "above"
    return None


def span_words(claim: Claim) -> str:
    """Return where the figure lies if the claim is true, as it is written."""
    low, low_closed, high, high_closed = claim.holds
    if low is None:
        return f"{'<=' if high_closed else '<'} {high:g}"
    if high is None:
        return f"{'>=' if low_closed else '>'} {low:g}"
    return f"{'[' if low_closed else '('}{low:g} .. {high:g}{']' if high_closed else ')'}"


def _about(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "claim": claim.claim,
        "says": claim.says,
        "cite": list(claim.cite),
        "optimizers": list(claim.optimizers),
        "experiment": claim.experiment,
        "setting": dict(claim.setting),
        "measures": claim.measures,
        "holds": span_words(claim) if claim.holds else None,
        "seeds": list(range(claim.seeds)) if claim.experiment else [],
        "limits": claim.limits,
        "supports": list(claim.supports),
    }


def _side(card: Optimizer, trial: Trial, device: str) -> dict[str, Any]:
    def arm(changes: Mapping[str, Any]) -> Arm:
        made = plan.plan_defaults(card, {**trial.numbers, **changes}, device, trial.implementation)
        return replace(made, max_grad_norm=trial.max_grad_norm)

    return {
        "arm": arm({}),
        "rates": [(rate, arm({"lr": rate})) for rate in trial.rates],
        "warmup": trial.warmup,
    }


def _plain(side: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **side,
        "arm": to_builtins(side["arm"]),
        "rates": [(rate, to_builtins(arm)) for rate, arm in side["rates"]],
    }


def _implementation(arm: Arm) -> dict[str, Any]:
    return {"optimizer": arm.optimizer, "import": arm.path, "package": arm.package, "deviates": arm.deviates}


def _surface(catalog: Catalog, claim: Claim) -> dict[str, Any] | None:
    name = claim.setting.get("surface")
    if name is None:
        return None
    if name not in catalog.surfaces:
        raise RuleFileError(f"no surface is called {name!r}; {nearest(name, catalog.surfaces)}", claim.at)
    surface: dict[str, Any] = asdict(catalog.surfaces[name])
    return surface
