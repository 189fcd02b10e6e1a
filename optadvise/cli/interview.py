"""`recommend --interactive`: questions about the facts that can still change the answer."""

from __future__ import annotations

import sys

from optadvise.advice import inputs
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import FactValues, InputValue
from optadvise.core.text import make_printable
from optadvise.rule_analysis.inputs_of_point import format_command
from optadvise.rule_analysis.interview import Interview

_MAX_LISTED = 6


def ask_facts(rules: CompiledRules, stated: FactValues, folders: tuple[str, ...]) -> dict[str, InputValue]:
    """Ask questions until one optimizer remains, and return all specified facts.

    Args:
        rules: The rules.
        stated: Facts specified on the command line.
        folders: Folders of rule layers, for the command line printed at the end.
    """
    interview = Interview(rules, stated)
    _print(_describe_candidates(interview))
    while (name := interview.choose_question()) is not None:
        if not _ask_fact(interview, name):
            _print("end of input: defaults are used for the remaining facts")
            break
        _print(_describe_candidates(interview))
    _print(f"equivalent command: {format_command(rules, interview.inputs, folders)}")
    return interview.inputs


def _print(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _describe_candidates(interview: Interview) -> str:
    candidates = sorted(interview.list_possible())
    if len(candidates) == 1:
        return f"  decided: {candidates[0]}"
    listed = ", ".join(candidates[:_MAX_LISTED]) + (" …" if len(candidates) > _MAX_LISTED else "")
    return f"  {len(candidates)} optimizers possible: {listed}"


def _ask_fact(interview: Interview, name: str) -> bool:
    """Ask for one fact until the answer is valid or skipped; return False at the end of input."""
    fact = interview.rules.catalog.facts[name]
    assumed = interview.rules.defaults.fill(interview.inputs).get(name)
    _print(f"\n{fact.ask}")
    if fact.type == "flag":
        _print("  yes or no")
    else:
        for value, meaning in (fact.values or {}).items():
            _print(f"  {value:<12} {meaning}")
    if name == "vram_bytes":
        _print('  a size such as 24GB, or a GPU such as "rtx 4090"')
    default = "unknown" if assumed is None else str(assumed).lower()
    while True:
        print(f"{fact.flag} [Enter: {default}] ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            _print("")
            return False
        text = line.strip()
        if not text:
            interview.skip(name)
            return True
        try:
            interview.add_inputs(_parse_answer(interview.rules, name, text))
            return True
        except InputError as error:
            _print(f"  {make_printable(str(error))}")


def _parse_answer(rules: CompiledRules, name: str, text: str) -> dict[str, InputValue]:
    catalog = rules.catalog
    fact = catalog.facts[name]
    if fact.type == "flag":
        if text.lower() not in ("y", "yes", "true", "n", "no", "false"):
            raise InputError(
                f"{text!r} must be yes or no", code=ErrorCode.INVALID_VALUE, option=str(fact.flag), value=text
            )
        return {name: text.lower() in ("y", "yes", "true")}
    if name == "vram_bytes" and not text[0].isdigit():
        return inputs.parse_inputs(catalog, {"gpu": text})
    return inputs.parse_inputs(catalog, {fact.name: text})
