"""Changes and fixes as an answer prints them, as options that are applied to the arguments of a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from optadvise.render import headings
from optadvise.rulebase.catalog import load

_FLAGS = {fact.flag for fact in load().facts.values() if fact.type == "flag" and fact.flag}  # options without a value
_BOUND = re.compile(r"(?: or (more|less)| \(any value\)| to (\S+))$")
# Options that describe the same: a stated one is replaced by another.
_SAME = ({"--vram", "--gpu"}, {"--arch", "--hf-config", "--params"})


class Change(NamedTuple):
    """A printed change: the options of each value that it lists, and how it goes on from there."""

    options: list[list[str]]
    bound: str  # more, less, to (between two values) or empty


def read_change(text: str) -> Change:
    """Return the options that a printed change lists.

    Example:
        >>> read_change("--params 1.14B or more")
        Change(options=[['--params', '1.14B']], bound='more')
        >>> read_change("--shard none, zero1 or zero2").options
        [['--shard', 'none'], ['--shard', 'zero1'], ['--shard', 'zero2']]
        >>> read_change("--vram 9.5GB to 20GB")
        Change(options=[['--vram', '9.5GB'], ['--vram', '20GB']], bound='to')
        >>> read_change("without --offload").options, read_change("--micro-batch 4 --checkpointing full").options
        ([['without', '--offload']], [['--micro-batch', '4', '--checkpointing', 'full']])
    """
    if text.count("--") != 1 or text.startswith("without "):
        return Change([shlex.split(text)], "")
    flag, _, rest = text.partition(" ")
    if not rest:
        return Change([[flag]], "")
    bound = _BOUND.search(rest)
    values = [rest[: bound.start()]] if bound else re.split(r", | or ", rest)
    if bound and bound[2]:
        values.append(bound[2])
    kind = (bound[1] or ("to" if bound[2] else "any")) if bound else ""
    return Change([[flag, value] for value in values], kind)


def apply_options(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the arguments of a run with options that replace those of the same kind.

    Example:
        >>> apply_options(["--vram", "24GB", "--offload"], ["--vram", "48GB", "without", "--offload"])
        ['--vram', '48GB']
    """
    run = dict(_pair(arguments))
    for flag, value in _pair(options):
        replaced = next((same for same in _SAME if flag in same), {flag})
        run = {name: old for name, old in run.items() if name not in replaced}
        if value is not None or flag in _FLAGS:
            run[flag] = value
        if flag == "without":
            run.pop(str(value), None)
            run.pop("without")
    return [text for flag, value in run.items() for text in ([flag] if value is None else [flag, value])]


def _pair(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the options of a run with their values."""
    rest = iter(arguments)
    for flag in rest:
        yield flag, None if flag in _FLAGS else next(rest)


def find_section(page: str, heading: str) -> list[str]:
    """Return the lines of a page below a heading, up to the next blank line; empty without the heading."""
    lines = page.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(heading)]
    if not starts:
        return []
    rest = lines[starts[0] + 1 :]
    return rest[: rest.index("") if "" in rest else len(rest)]


def read_changes(page: str) -> list[tuple[str, str]]:
    """Return the printed changes with the optimizers to which they lead."""
    lines = find_section(page, headings.CHANGES)
    return [(change.strip(), optimizer) for change, _, optimizer in (line.partition("→ ") for line in lines)]


def read_fixes(page: str) -> list[tuple[str, list[str]]]:
    """Return the printed chains of fixes: the size after all of them, such as `9.88 GiB`, and their options.

    The page must be so wide that no option is wrapped.
    """
    chains: list[tuple[str, list[str]]] = []
    for line in find_section(page, headings.FIXES.partition(" (")[0]):
        start = re.match(r"\s*\d+\.\s+peak (\S+ \S+)(?:.* with (--[^;]*))?", line)
        if start:
            chains.append((start[1].rstrip(":"), shlex.split(start[2] or "")))
        elif chains and line.lstrip().startswith("--"):
            chains[-1][1].extend(shlex.split(re.split(r"\s{2,}", line.strip())[0]))
    return chains
