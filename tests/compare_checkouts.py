"""Compare the output of two checkouts for the same command lines: python -m tests.compare_checkouts OLD NEW.

Removed keys, changed values and changed exit codes are differences; added keys are allowed and listed. The command
lines and the volatile values are in tests/checkouts/commands.yaml. The exit code is 1 if there are differences.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import yaml

TABLE = Path(__file__).parent / "checkouts" / "commands.yaml"
INPUTS = TABLE.parent / "inputs"
SHOWN_DIFFERENCES, SHOWN_CHARACTERS, COMMAND_SECONDS = 10, 60, 600
ADDED = "added"  # kind of difference that is allowed

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


@dataclass(frozen=True)
class Command:
    """Command line; `comparison` is json, text or exit."""

    line: str
    comparison: str


@dataclass(frozen=True)
class Checkout:
    """Folder of the code, and working folder of its commands."""

    root: Path
    work: Path


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a run, with the paths of its checkout replaced by names."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Difference:
    """Difference; `kind` is added, removed or changed, and `path` has the keys and indices of the value."""

    kind: str
    path: tuple[str, ...]
    detail: str

    @property
    def pattern(self) -> str:
        """Return the path without indices, in the form of the table of volatile values."""
        return join_keys(self.path)


def join_keys(path: tuple[str, ...]) -> str:
    """Return the keys of a path without its indices, joined by dots."""
    return ".".join(part for part in path if not part.isdecimal())


@dataclass(frozen=True)
class Table:
    """Command lines to compare, patterns of volatile paths, and ids that were renamed intentionally."""

    commands: list[Command]
    volatile: list[str]
    renamed: dict[str, str]


def read_table() -> Table:
    """Read the table."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    commands = [Command(line, kind) for kind in ("json", "text", "exit") for line in table[kind]]
    return Table(commands, list(table["volatile"]), dict(table["renamed"]))


def prepare_checkout(root: Path, work: Path) -> Checkout:
    """Create the working folder of a checkout: a copy of the inputs, with folders for the cache and for data.

    Raises:
        SystemExit: Python would import the package from another folder.
    """
    shutil.copytree(INPUTS, work)
    checkout = Checkout(root.resolve(), work.resolve())
    arguments = [sys.executable, "-c", "import optadvise; print(optadvise.__file__)"]
    run = subprocess.run(arguments, cwd=work, env=make_environment(checkout), capture_output=True, text=True)
    if run.returncode or not Path(run.stdout.strip()).is_relative_to(checkout.root):
        raise SystemExit(f"{root}: optadvise is imported from {run.stdout.strip() or 'nowhere'} instead of this folder")
    return checkout


def make_environment(checkout: Checkout) -> dict[str, str]:
    """Return environment variables with which a command uses only its own checkout, cache and data."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPTADVISE_", "XDG_", "PYTHON"))
    }
    home = checkout.work / "home"
    folders = {
        "HOME": home,
        "OPTADVISE_CACHE_DIR": home / "cache",
        "XDG_CACHE_HOME": home / "xdg-cache",
        "XDG_DATA_HOME": home / "xdg-data",
        "PYTHONPATH": checkout.root,
    }
    return {**inherited, **{name: str(folder) for name, folder in folders.items()}, "COLUMNS": "80", "NO_COLOR": "1"}


def run_command(checkout: Checkout, command: Command) -> Outcome:
    """Run a command line in a checkout's working folder."""
    arguments = [argument.replace("{checkout}", str(checkout.root)) for argument in shlex.split(command.line)]
    run = subprocess.run(
        [sys.executable, "-m", "optadvise", *arguments],
        cwd=checkout.work,
        env=make_environment(checkout),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    texts = [
        text.replace(str(checkout.work), "WORK").replace(str(checkout.root), "CHECKOUT")
        for text in (run.stdout, run.stderr)
    ]
    return Outcome(run.returncode, *texts)


def compare_outcomes(command: Command, old: Outcome, new: Outcome, table: Table) -> Iterator[Difference]:
    """Yield the differences between two runs of a command line."""
    yield from compare_scalars(old.exit_code, new.exit_code, ("exit code",))
    if command.comparison == "json":
        yield from compare_json_texts(old, new, table)
    elif command.comparison == "text":
        yield from compare_lines(old.stdout.splitlines(), new.stdout.splitlines())
    else:
        if not old.stdout and '"kind": "error"' in new.stdout:
            yield Difference(ADDED, ("error object",), "")
        else:
            yield from compare_scalars(bool(old.stdout), bool(new.stdout), ("prints to stdout",))
        one_line = [len(outcome.stderr.splitlines()) <= 1 for outcome in (old, new)]
        yield from compare_scalars(one_line[0], one_line[1], ("at most one line on stderr",))


def compare_json_texts(old: Outcome, new: Outcome, table: Table) -> Iterator[Difference]:
    """Yield the differences between two JSON outputs."""
    values: list[Json] = []
    expected = old.stdout
    for before, after in table.renamed.items():
        expected = expected.replace(f'"{before}"', f'"{after}"')
    for name, outcome, text in (("old", old, expected), ("new", new, new.stdout)):
        try:
            values.append(json.loads(text))
        except ValueError:
            yield Difference("changed", ("stdout",), f"{name} is not JSON; stderr: {shorten(outcome.stderr)}")
            return
    kind = values[0].get("kind") if isinstance(values[0], dict) else None
    yield from compare_values(values[0], values[1], (str(kind),), table.volatile)


def compare_values(old: Json, new: Json, path: tuple[str, ...], volatile: list[str]) -> Iterator[Difference]:
    """Yield the differences between two JSON values; for volatile values only removed and added keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in new:
                yield Difference("removed", (*path, key), shorten(old[key]))
            elif key not in old:
                yield Difference(ADDED, (*path, key), shorten(new[key]))
            else:
                yield from compare_values(old[key], new[key], (*path, key), volatile)
    elif any(fnmatchcase(join_keys(path), pattern) for pattern in volatile):
        return
    elif isinstance(old, list) and isinstance(new, list):
        yield from compare_scalars(len(old), len(new), (*path, "length"))
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from compare_values(before, after, (*path, str(index)), volatile)
    else:
        yield from compare_scalars(old, new, path)


def compare_scalars(old: Json, new: Json, path: tuple[str, ...]) -> Iterator[Difference]:
    """Yield a difference unless two values are equal; floats can differ by rounding."""
    if isinstance(old, float) and isinstance(new, float) and math.isclose(old, new, rel_tol=1e-9):
        return
    # JSON has a single number type, and in Python True equals 1.
    if isinstance(old, bool) is not isinstance(new, bool) or old != new:
        yield Difference("changed", path, f"{shorten(old)} -> {shorten(new)}")


def compare_lines(old: list[str], new: list[str]) -> Iterator[Difference]:
    """Yield the differences between two texts, by lines."""
    yield from compare_scalars(len(old), len(new), ("number of lines",))
    for number, (before, after) in enumerate(zip(old, new, strict=False), start=1):
        yield from compare_scalars(before, after, ("line", str(number)))


def shorten(value: Json) -> str:
    """Return a value as JSON, shortened for the report."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def format_differences(command: Command, differences: list[Difference]) -> str:
    """Return a line for the command, followed by a line for each difference that is not allowed."""
    failures = [difference for difference in differences if difference.kind != ADDED]
    lines = [f"  {item.kind} {'.'.join(item.path)}: {item.detail}" for item in failures[:SHOWN_DIFFERENCES]]
    if len(failures) > len(lines):
        lines.append(f"  and {len(failures) - len(lines)} more")
    return "\n".join([f"{'DIFFERS' if failures else 'equal  '} {command.line}", *lines])


def compare_checkouts(old: Checkout, new: Checkout, only: str) -> list[Difference]:
    """Run the command lines that contain a text in two checkouts; print and return their differences."""
    table = read_table()
    differences: list[Difference] = []
    with ThreadPoolExecutor(2) as pool:
        for command in table.commands:
            if only in command.line:
                before, after = pool.map(run_command, (old, new), (command, command))
                compared = list(compare_outcomes(command, before, after, table))
                print(format_differences(command, compared), flush=True)
                differences += compared
    return differences


def print_summary(differences: list[Difference]) -> None:
    """Print the added keys and the number of differences."""
    added = Counter(difference.pattern for difference in differences if difference.kind == ADDED)
    for pattern, count in sorted(added.items()):
        print(f"allowed: added {pattern} ({count} times)")
    print(f"{len(differences) - added.total()} differences, {len(added)} added keys")


def main() -> int:
    """Compare the two checkouts of the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.compare_checkouts", description=__doc__)
    parser.add_argument("old", type=Path, help="reference checkout")
    parser.add_argument("new", type=Path, help="checkout to compare with it")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only command lines that contain TEXT")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-checkouts-") as folder:
        old = prepare_checkout(arguments.old, Path(folder) / "old" / "work")
        new = prepare_checkout(arguments.new, Path(folder) / "new" / "work")
        differences = compare_checkouts(old, new, arguments.only)
    print_summary(differences)
    return int(any(difference.kind != ADDED for difference in differences))


if __name__ == "__main__":
    sys.exit(main())
