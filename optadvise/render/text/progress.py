"""Progress on stderr: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

_WORDS = {"start": "starting", "round": "round", "finish": "reading memory of"}


@contextlib.contextmanager
def progress(arms: int, rounds: int) -> Iterator[Callable[[str, str, int], None]]:
    """Yield a function that is told what happens, to which arm, in which round."""
    if not sys.stderr.isatty():
        done: set[tuple[str, int]] = set()

        def line(what: str, label: str, number: int) -> None:
            if what != "round":
                print(f"{_WORDS[what]} {label}", file=sys.stderr, flush=True)
            elif (what, number) not in done:
                done.add((what, number))
                print(f"round {number} of {rounds}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=arms * (rounds + 2))

        def move(what: str, label: str, number: int) -> None:
            status = f"round {number}: {label}" if what == "round" else f"{_WORDS[what]} {label}"
            bar.update(task, description=status)
            bar.advance(task)

        yield move
