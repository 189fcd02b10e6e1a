"""Progress on stderr: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

_LABELS = {"start": "starting", "round": "round", "finish": "measuring memory of"}


@contextlib.contextmanager
def progress(arms: int, rounds: int) -> Iterator[Callable[[str, str, int], None]]:
    """Yield a function to call with an event, the label of its arm and the round."""
    if not sys.stderr.isatty():
        printed: set[tuple[str, int]] = set()

        def print_line(event: str, label: str, number: int) -> None:
            if event != "round":
                print(f"{_LABELS[event]} {label}", file=sys.stderr, flush=True)
            elif (event, number) not in printed:
                printed.add((event, number))
                total = f" of {rounds}" if number <= rounds else ", until the requirements are decided"
                print(f"round {number}{total}", file=sys.stderr, flush=True)

        yield print_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=arms * (rounds + 2))

        def move_bar(event: str, label: str, number: int) -> None:
            status = f"round {number}: {label}" if event == "round" else f"{_LABELS[event]} {label}"
            bar.update(task, description=status)
            bar.advance(task)

        yield move_bar
