"""Reading of `rules/claims.yaml`: claims about optimizers and the experiments that test them.

The file has its own cache entry, because only `verify` and its evidence need it.
"""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.core.cards import Optimizer
from optadvise.core.claim_cards import EXPERIMENTS, Claim, ClaimFile, Trial
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError, suggest_name
from optadvise.core.yaml_reader import KnownIds
from optadvise.core.yaml_records import read_file
from optadvise.rulebase import conditions
from optadvise.rulebase.rule_paths import Contents

assert conditions  # registers the readers of experiments and ranges

_MAX_SEEDS = 20
_NOT_NUMBERS = ("network", "surface", "dtype", "shape", "scales")  # keys of `setting` whose values are not numbers
_EXPERIMENT_KEYS = ("experiment", "trials", "measures", "expected_range")  # required together


def read_claims(
    contents: Contents,
    known_ids: KnownIds,
    optimizers: Mapping[str, Optimizer],
) -> dict[str, Claim]:
    """Return all claims by id; claims of later layers replace earlier ones.

    Args:
        optimizers: Cards of the optimizers in the trials.

    Raises:
        RuleFileError: A file is invalid, or a card refers to an unknown claim.
    """
    claims: dict[str, Claim] = {}
    for _, file, content in contents:
        names: set[str] = set()
        for claim in read_file(ClaimFile, content, str(file), known_ids)[0].claims:
            if claim.id in names:
                message = f"claim {claim.id!r} appears twice; remove one"
                raise RuleFileError(message, claim.at, code=ErrorCode.DUPLICATE_ENTRY)
            names.add(claim.id)
            _check_claim(claim)
            for trial in claim.trials:
                _check_trial(trial, optimizers[trial.optimizer], claim.at)
            claims[claim.id] = claim
    for card in optimizers.values():
        for reason in (*card.use_when, *card.avoid_when):
            if reason.claim is not None and reason.claim not in claims:
                message = f"unknown claim {reason.claim!r}; {suggest_name(reason.claim, claims)}"
                raise RuleFileError(message, card.at, code=ErrorCode.UNKNOWN_REFERENCE)
    return claims


def _check_claim(claim: Claim) -> None:
    """Check that a claim has either a complete experiment or `needs`."""
    present = [key for key in _EXPERIMENT_KEYS if getattr(claim, key) not in (None, ())]
    if (claim.needs is not None) == bool(present) or len(present) not in (0, len(_EXPERIMENT_KEYS)):
        message = f"a claim must have either `needs` or all of {', '.join(_EXPERIMENT_KEYS)}"
        raise RuleFileError(message, claim.at, code=ErrorCode.MISSING_KEY)
    if not 1 <= claim.seeds <= _MAX_SEEDS:
        message = f"`seeds: {claim.seeds}` must be from 1 to {_MAX_SEEDS}"
        raise RuleFileError(message, claim.at, code=ErrorCode.INVALID_ENTRY)
    if claim.experiment is not None:
        _check_experiment(claim, claim.experiment)


def _check_experiment(claim: Claim, experiment: str) -> None:
    design, setting = EXPERIMENTS[experiment], claim.setting
    wrong = [name for name, value in setting.items() if name not in _NOT_NUMBERS and not _is_positive(value)]
    if wrong:
        message = f"`{wrong[0]}: {setting[wrong[0]]}` must be a number above 0"
        raise RuleFileError(message, claim.at, code=ErrorCode.INVALID_ENTRY)
    missing = [name for name in design.setting if name not in setting]
    if len(claim.trials) != design.sides or missing:
        trials = f"{design.sides} trial{'s' if design.sides > 1 else ''}"
        message = f"experiment {experiment} requires {trials} and a setting with {', '.join(design.setting)}"
        raise RuleFileError(message, claim.at, code=ErrorCode.MISSING_KEY)
    if any(bool(trial.learning_rates) != design.sweeps_lr for trial in claim.trials):
        verb = "requires" if design.sweeps_lr else "does not support"
        message = f"experiment {experiment} {verb} `learning_rates` in its trials"
        code = ErrorCode.MISSING_KEY if design.sweeps_lr else ErrorCode.INVALID_ENTRY
        raise RuleFileError(message, claim.at, code=code)
    if setting.get("last", 0) > setting.get("steps", 0) // setting.get("times", 1):
        message = f"`last: {setting['last']}` must not exceed the steps of the shortest training"
        raise RuleFileError(message, claim.at, code=ErrorCode.INVALID_ENTRY)


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _check_trial(trial: Trial, card: Optimizer, at: str) -> None:
    """Check that the implementation and hyperparameters of a trial exist."""
    implementations = [implementation.id for implementation in card.implementations]
    numbers = [hyperparameter.name for hyperparameter in card.hyperparameters]
    named = [("implementation", trial.implementation or implementations[0], implementations)]
    named += [("hyperparameter", name, numbers) for name in trial.hyperparameters]
    for kind, name, accepted in named:
        if name not in accepted:
            message = f"{card.id} has no {kind} {name!r}; {suggest_name(name, accepted)}"
            raise RuleFileError(message, at, code=ErrorCode.UNKNOWN_REFERENCE)
    if trial.warmup_steps < 0 or not all(lr > 0 for lr in trial.learning_rates):
        message = "`learning_rates` must be above 0 and `warmup_steps` must not be negative"
        raise RuleFileError(message, at, code=ErrorCode.INVALID_ENTRY)
