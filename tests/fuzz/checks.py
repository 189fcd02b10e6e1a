"""Promises that every command line keeps: exit code, one line of error, valid JSON, harmless text, time."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from typing import Any, NoReturn

import jsonschema

from optadvise.cli.failures import prints_json
from optadvise.cli.spellings import normalize_arguments
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import OptadviseError
from tests import schemas
from tests.fuzz.cases import Case, FindingError, Outcome

SLOW_SECONDS = 40.0  # CPU time of a command that measures nothing; rules of a new layer are proven first
_EXIT_CODES = {0, 1, 2, 3, 4, 5, 130}
_WITHOUT_FAILURE = {0, 1, 4, 5}  # verdicts, and reports about a machine that lacks something
_CODES = {code.value for code in ErrorCode} - {ErrorCode.INTERNAL.value}
_NOTE = re.compile(r"optadvise: (note|warning): .|wrote .|\d+ of \d+: .")
_NOT_JSON = {"--help", "-h", "--version", "--man"}
_CARD = ("schedule", "schedules")  # `show cosine` has the kind of the schedule command, but not this key, and no schema
_HARMLESS = "\n\t\u200d"  # the last joins the parts of emoji


def check(case: Case, outcome: Outcome) -> None:
    """Check everything that holds for every command line.

    Raises:
        FindingError: A promise is broken.
    """
    for problem in (_check_exit, _check_stderr, _check_stdout, _check_text, _check_time):
        signature = problem(case, outcome)
        if signature is not None:
            fail(signature, case, outcome)


def fail(signature: str, case: Case, outcome: Outcome) -> NoReturn:
    """Raise a finding with the command in its signature."""
    output = f"exit code {outcome.code}\nstdout: {outcome.out[:1500]}\nstderr: {outcome.err[:1500]}"
    raise FindingError(f"{find_command(case)}: {signature}", case, output)


def find_command(case: Case) -> str:
    """Return the command of a case."""
    words = [word for word in case.arguments if not word.startswith("-")]
    return " ".join(words[:2]) if words[:1] == ["rules"] else "".join(words[:1])


def _check_exit(case: Case, outcome: Outcome) -> str | None:
    failure = outcome.failure
    if outcome.code not in _EXIT_CODES:
        return f"exit code {outcome.code}"
    if failure is None:
        return None if outcome.code in _WITHOUT_FAILURE else f"exit code {outcome.code} without an error"
    if failure.exit_code != outcome.code or outcome.code == 0:
        return f"exit code {outcome.code}, but the error has {failure.exit_code}"
    if failure.code not in _CODES:
        return f"unknown error code {failure.code}"
    if not failure.message.strip() or failure.message.endswith("."):
        return f"message of {failure.code} is empty or ends with a full stop"
    return f"{failure.code}: the rules cause an error" if "these rules cause an error" in failure.message else None


def _check_stderr(case: Case, outcome: Outcome) -> str | None:
    if "--debug" in case.arguments:
        return None
    lines = outcome.err.splitlines()
    if "--interactive" in case.arguments:  # questions are printed on stderr
        lines = lines[-1:] if outcome.failure is not None else []
    if case.is_real:  # a measurement shows its progress
        lines = [line for line in lines if line.startswith("optadvise: ")]
    errors = [line for line in lines if not _NOTE.match(line)]
    if outcome.failure is None:
        return "text on stderr" if errors and outcome.code == 0 else None
    if len(errors) != 1 or not errors[0].startswith("optadvise: "):
        return f"{len(errors)} lines for {outcome.failure.code}"
    return None


def _check_stdout(case: Case, outcome: Outcome) -> str | None:
    if _NOT_JSON & {*case.arguments}:
        return None
    try:
        arguments = normalize_arguments(case.arguments)
    except OptadviseError:
        arguments = list(case.arguments)
    texts = [outcome.out] if outcome.out.startswith("{") else []
    if prints_json(arguments) and (outcome.failure is not None or "{" in outcome.out):
        texts = [outcome.out]
    texts += [text for name, text in outcome.written.items() if name.endswith("new.json") and text.startswith("{")]
    return next((problem for text in texts if (problem := _check_json(text)) is not None), None)


def _check_json(text: str) -> str | None:
    try:
        data = json.loads(text, parse_constant=_reject_constant)
    except ValueError as error:
        return f"invalid JSON: {str(error).split(':')[0]}"
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind is None or "schema_version" not in data:
        return None if isinstance(data, (dict, list)) else "JSON is not an object"
    is_card = kind == _CARD[0] and _CARD[1] not in data
    validator = None if is_card else _find_validator(str(kind))
    mismatch = None if validator is None else next(validator.iter_errors(data), None)
    return None if mismatch is None else f"schema of {kind}: {mismatch.json_path}: {mismatch.message[:80]}"


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@functools.cache
def _find_validator(kind: str) -> Any:
    """Return the validator of a kind of document; None if it has no schema."""
    if kind not in schemas.RECORDS:
        return None
    return jsonschema.Draft202012Validator(json.loads(schemas.make_schema(kind)))


def _check_text(case: Case, outcome: Outcome) -> str | None:
    texts = {"stdout": outcome.out, "stderr": outcome.err, **outcome.written}
    for name, text in texts.items():
        bad = sorted({character for character in text if _is_harmful(character)})
        if bad:
            place = name if name.startswith("std") else f"a file {name.rpartition('.')[2]}"
            return f"{', '.join(f'U+{ord(character):04X}' for character in bad[:1])} in {place}"
    return None


def _is_harmful(character: str) -> bool:
    """Return whether a character controls the terminal or the direction of text."""
    if character.isascii():
        return not character.isprintable() and character not in _HARMLESS
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _HARMLESS


def _check_time(case: Case, outcome: Outcome) -> str | None:
    return "slow" if outcome.seconds > SLOW_SECONDS and not case.is_real else None
