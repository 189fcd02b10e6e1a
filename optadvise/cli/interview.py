"""`recommend --interactive`: asks what would still change the answer, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from optadvise.advice import inputs
from optadvise.advice.advisor import Advisor
from optadvise.core.errors import InputError
from optadvise.core.text import make_printable
from optadvise.rule_analysis.describe import command
from optadvise.rule_analysis.interview import Interview

_SPELT = {"vram_bytes": "vram"}  # facts whose option has another name
_MOST_NAMED = 6


def ask(advisor: Advisor, said: Mapping[str, Any], folders: tuple[str, ...]) -> dict[str, Any]:
    """Ask until the optimizer is settled, and return all that was said.

    Args:
        advisor: The rules.
        said: Facts that were stated already.
        folders: Of further rules, for the command line that is told in the end.
    """
    interview = Interview(advisor, said)
    _tell(_narrowed(interview))
    while (name := interview.question()) is not None:
        if not _put(interview, name):
            _tell("no more answers: the rest is assumed")
            break
        _tell(_narrowed(interview))
    _tell(f"the same without questions: {command(advisor, interview.said, folders)}")
    return interview.said


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _narrowed(interview: Interview) -> str:
    left = sorted(interview.possible())
    if len(left) == 1:
        return f"  settled: {left[0]}"
    named = ", ".join(left[:_MOST_NAMED]) + (" …" if len(left) > _MOST_NAMED else "")
    return f"  {len(left)} still possible: {named}"


def _put(interview: Interview, name: str) -> bool:
    """Ask one question until it is answered or left; False where there are no more answers."""
    fact = interview.advisor.catalog.facts[name]
    filled = interview.advisor.completer.fill(interview.said).get(name)
    _tell(f"\n{fact['ask']}")
    if fact["type"] == "flag":
        _tell("  yes or no")
    for word, meaning in fact.get("values", {}).items() if fact["type"] != "flag" else ():
        _tell(f"  {word:<12} {meaning}")
    if name == "vram_bytes":
        _tell('  24GB, or a GPU\'s name such as "rtx 4090"')
    usual = "not known" if filled is None else str(filled).lower()
    while True:
        print(f"{fact['flag']} [Enter: {usual}] ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            _tell("")
            return False
        word = line.strip()
        if not word:
            interview.leave(name)
            return True
        try:
            interview.tell(_read(interview.advisor, name, word))
            return True
        except InputError as error:
            _tell(f"  {make_printable(str(error))}")


def _read(advisor: Advisor, name: str, word: str) -> dict[str, Any]:
    catalog = advisor.catalog
    fact = catalog.facts[name]
    if fact["type"] == "flag":
        if word.lower() not in ("y", "yes", "true", "n", "no", "false"):
            raise InputError(f"{fact['flag']} {word!r}: say yes or no")
        return {name: word.lower() in ("y", "yes", "true")}
    if name == "vram_bytes" and not word[0].isdigit():
        return inputs.read(catalog, {"gpu": word})
    return inputs.read(catalog, {_SPELT.get(name, name): word})
