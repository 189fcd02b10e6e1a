"""Cases of the fuzzer: a command line with its files, what it printed, and findings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from optadvise.cli.failures import Failure


class Case(Struct, frozen=True, kw_only=True):
    """Command line with everything that it reads.

    Attributes:
        arguments: The arguments after the program's name.
        files: Content by path in the working folder. The folder `data` has the user's data.
        cache: Content by the name of a cache entry; None for the shared cache.
        stdin: Content of stdin.
        is_real: Start real worker processes.
    """

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    cache: Mapping[str, bytes] | None = None
    stdin: bytes = b""
    is_real: bool = False

    def __repr__(self) -> str:
        return str(self)  # contents are long

    def __str__(self) -> str:
        return shlex.join(["optadvise", *self.arguments])


class Outcome(Struct, frozen=True, kw_only=True):
    """What a command line printed and wrote.

    Attributes:
        code: Exit code.
        out: Text of stdout, as a terminal gets it.
        err: Text of stderr.
        failure: The reported failure; None where there is none.
        seconds: CPU time.
        written: Content of new and changed text files by path in the working folder.
    """

    code: int
    out: str
    err: str
    failure: Failure | None
    seconds: float
    written: Mapping[str, str]


class FindingError(AssertionError):
    """A case that violates a promise of the command line.

    Attributes:
        signature: Kind of the finding without details that vary, to count equal findings once.
        case: The case.
        output: Excerpt of what it printed.
    """

    def __init__(self, signature: str, case: Case, output: str = "") -> None:
        """Store the finding."""
        super().__init__(signature)
        self.signature = signature
        self.case = case
        self.output = output

    def save(self, folder: Path) -> str:
        """Write the files of the case to a new folder, and return the command line that reproduces the finding."""
        root = folder / f"{len(list(folder.glob('*'))):03d}" if folder.is_dir() else folder / "000"
        root.mkdir(parents=True)
        cache = {f"cache/{name}": content for name, content in (self.case.cache or {}).items()}
        stdin = {"stdin.txt": self.case.stdin} if self.case.stdin else {}
        for name, content in {**self.case.files, **cache, **stdin}.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        variables = "OPTADVISE_DATA_DIR=data " + ("OPTADVISE_CACHE_DIR=cache " if cache else "")
        line = f"cd {root} && {variables}{self.case}{' < stdin.txt' if stdin else ''}"
        (root / "finding.txt").write_bytes(
            f"{self.signature}\n{line}\n{self.case.arguments!r}\n\n{self.output}\n".encode(errors="backslashreplace")
        )
        return line
