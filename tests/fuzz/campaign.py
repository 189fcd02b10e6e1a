"""Run targets for a time or a number of cases, and keep one finding of each kind."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from msgspec import Struct, field, structs

from tests.fuzz.cases import Case, FindingError
from tests.fuzz.sandbox import Sandbox
from tests.fuzz.targets import TARGETS, Target

_BATCH = 20  # cases between looks at the clock
_MOST_FINDINGS = 50  # of a target; a broken program would otherwise fill the disk


class Count(Struct):
    """Counts of a target.

    Attributes:
        codes: Cases without a finding, by exit code.
        findings: A small case of each kind of finding, by signature.
        repeated: Cases with a finding, by signature.
    """

    codes: Counter[int] = field(default_factory=Counter)
    findings: dict[str, FindingError] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)


def run_case(name: str, number: int, sandbox: Sandbox, count: Count) -> FindingError | None:
    """Run the case of a target with a number, and add it to the counts; return a new kind of finding."""
    target = TARGETS[name]
    case = target.make_case(Random(f"{name} {number}"))
    try:
        count.codes[target.run(case, sandbox).code] += 1
    except FindingError as error:
        count.repeated[error.signature] += 1
        if error.signature not in count.findings and len(count.findings) < _MOST_FINDINGS:
            count.findings[error.signature] = reduce(target, sandbox, error, case)
            return count.findings[error.signature]
    return None


def reduce(target: Target, sandbox: Sandbox, error: FindingError, case: Case) -> FindingError:
    """Return the finding with as few arguments as possible.

    Args:
        target: Target that found it.
        sandbox: Where smaller cases run.
        error: The finding.
        case: The case, which differs from that of the finding where a check changes it.
    """
    place = len(case.arguments) - 1
    while place > 0:
        for width in (2, 1):  # an option with its value, or a single argument
            smaller = structs.replace(case, arguments=case.arguments[:place] + case.arguments[place + width :])
            try:
                target.run(smaller, sandbox)
            except FindingError as other:
                if other.signature == error.signature and len(smaller.arguments) < len(case.arguments):
                    case, error = smaller, other
                    break
            except (ValueError, IndexError):  # a check needs the argument
                continue
        place -= 1
    return error


def run_campaign(
    seconds: float,
    seed: int,
    sandbox: Sandbox,
    names: Sequence[str] = (),
    report: Callable[[str, FindingError], None] = lambda *_: None,
) -> dict[str, Count]:
    """Run the targets in turn for a time, each for a share by its weight; Ctrl-C ends the campaign early.

    Args:
        seconds: Time of the whole campaign.
        seed: Seed of its cases.
        sandbox: Where the cases run.
        names: Targets (default: all).
        report: Called with the target and the finding at the first finding of each kind.
    """
    counts = {name: Count() for name in names or TARGETS}
    spent = dict.fromkeys(counts, 0.0)
    numbers, end = itertools.count(seed * 10**6), time.monotonic() + seconds
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() < end:
            name = min(counts, key=lambda one: spent[one] / TARGETS[one].weight)
            started = time.monotonic()
            for number in itertools.islice(numbers, _BATCH):
                found = run_case(name, number, sandbox, counts[name])
                if found is not None:
                    report(name, found)
            spent[name] += time.monotonic() - started
    return counts


def format_table(counts: Mapping[str, Count]) -> str:
    """Return counts as a Markdown table."""
    codes = sorted({code for count in counts.values() for code in count.codes})
    head = ["target", "runs", *(f"exit {code}" for code in codes), "findings"]
    rows = [[name, *map(str, _list_figures(count, codes))] for name, count in counts.items()]
    total = [sum(int(row[column]) for row in rows) for column in range(1, len(head))]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows, ["total", *map(str, total)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list_figures(count: Count, codes: Sequence[int]) -> Iterator[int]:
    yield count.codes.total() + count.repeated.total()
    yield from (count.codes[code] for code in codes)
    yield len(count.findings)
