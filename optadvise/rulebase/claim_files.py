"""Read `rules/claims.yaml`: sentences that an experiment can refute.

Apart from the other rules and with a cache entry of its own, as only `verify` and its evidence need it.
"""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.core.cards import EXPERIMENTS, Optimizer
from optadvise.core.claim_cards import Claim, ClaimFile, Trial
from optadvise.core.errors import RuleFileError, suggest_name
from optadvise.core.yaml_reader import KnownIds
from optadvise.core.yaml_records import read_file
from optadvise.rulebase import conditions
from optadvise.rulebase.rule_paths import Contents

assert conditions  # registers the readers of experiments and ranges

_MOST_SEEDS = 20
_NOT_NUMBERS = ("network", "surface", "dtype", "shape", "scales")  # keys of a setting
_TOGETHER = ("experiment", "trials", "measures", "expected_range")


def read_claims(
    contents: Contents,
    known_ids: KnownIds,
    optimizers: Mapping[str, Optimizer],
) -> dict[str, Claim]:
    """Return every claim by its id; a later layer's replaces an earlier one's.

    Args:
        optimizers: The cards, whose implementations and hyperparameters trials name.

    Raises:
        RuleFileError: A file is invalid, or a card rests on a claim that is not there.
    """
    claims: dict[str, Claim] = {}
    for _, file, content in contents:
        names: set[str] = set()
        for claim in read_file(ClaimFile, content, str(file), known_ids)[0].claims:
            if claim.id in names:
                raise RuleFileError(f"the claim {claim.id!r} appears twice; keep one", claim.at)
            names.add(claim.id)
            _check_claim(claim)
            for trial in claim.trials:
                _check_trial(trial, optimizers[trial.optimizer], claim.at)
            claims[claim.id] = claim
    for card in optimizers.values():
        for reason in (*card.use_when, *card.avoid_when):
            if reason.claim is not None and reason.claim not in claims:
                message = (
                    f"rests on the claim {reason.claim!r}, which is not there; {suggest_name(reason.claim, claims)}"
                )
                raise RuleFileError(message, card.at)
    return claims


def _check_claim(claim: Claim) -> None:
    """Check that a claim has an experiment with all that belongs to it, or says what it would need."""
    present = [key for key in _TOGETHER if getattr(claim, key) not in (None, ())]
    if (claim.needs is not None) == bool(present) or len(present) not in (0, len(_TOGETHER)):
        raise RuleFileError(f"a claim has {', '.join(_TOGETHER)}, or else `needs`", claim.at)
    if not 1 <= claim.seeds <= _MOST_SEEDS:
        raise RuleFileError(f"`seeds` is a whole number from 1 to {_MOST_SEEDS}", claim.at)
    if claim.experiment is not None:
        _check_experiment(claim, claim.experiment)


def _check_experiment(claim: Claim, experiment: str) -> None:
    design, setting = EXPERIMENTS[experiment], claim.setting
    wrong = [name for name, value in setting.items() if name not in _NOT_NUMBERS and not _is_positive(value)]
    if wrong:
        raise RuleFileError(f"`{wrong[0]}` is a number above zero", claim.at)
    missing = [name for name in design.setting if name not in setting]
    if len(claim.trials) != design.sides or missing:
        needs = f"{design.sides} trial{'s' if design.sides > 1 else ''} and a setting with {', '.join(design.setting)}"
        raise RuleFileError(f"the experiment {experiment} needs {needs}", claim.at)
    if any(bool(trial.learning_rates) != design.sweeps_lr for trial in claim.trials):
        verb = "needs" if design.sweeps_lr else "takes no"
        raise RuleFileError(f"the experiment {experiment} {verb} `learning_rates` in each trial", claim.at)
    if setting.get("last", 0) > setting.get("steps", 0) // setting.get("times", 1):
        raise RuleFileError("`last` is longer than the shortest training", claim.at)


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _check_trial(trial: Trial, card: Optimizer, at: str) -> None:
    """Check that a trial names what its optimizer has."""
    implementations = [implementation.id for implementation in card.implementations]
    numbers = [hyperparameter.name for hyperparameter in card.hyperparameters]
    named = [("implementation", trial.implementation or implementations[0], implementations)]
    named += [("hyperparameter", name, numbers) for name in trial.hyperparameters]
    for kind, name, accepted in named:
        if name not in accepted:
            raise RuleFileError(f"{card.id} has no {kind} {name!r}; {suggest_name(name, accepted)}", at)
    if trial.warmup_steps < 0 or not all(rate > 0 for rate in trial.learning_rates):
        raise RuleFileError("`learning_rates` are above zero, and `warmup_steps` is not negative", at)
