"""Output files of results, and the command line that reproduces a result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from optadvise.core.errors import InputError
from optadvise.core.version import __version__

if TYPE_CHECKING:
    from optadvise.benchmark.records import BenchmarkResult
    from optadvise.render.html.page import PageOrigin

_Result = TypeVar("_Result")


def places(named: Mapping[str, Path | str | None]) -> dict[str, Path]:
    """Return the files that options name, found to be writable before anything is worked out.

    Args:
        named: Each option and the file that it names; None where it was left out.

    Raises:
        InputError: A file cannot be written, is stdout, or is named twice.
    """
    from optadvise.core.files import check_writable

    files = {flag: Path(path) for flag, path in named.items() if path is not None}
    for flag, path in files.items():
        if str(path) == "-":
            raise InputError(f"{flag} -: only JSON goes to stdout; name a file")
        if flag == "--report" and path.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{flag} {str(path)!r}: is a page of HTML; name a file that ends in .html")
        check_writable(path, flag)
        same = [other for other in files if other != flag and files[other].resolve() == path.resolve()]
        if same:
            raise InputError(f"{flag} {str(path)!r}: {same[0]} names the same file; give each its own")
    return files


class ResultFormats(Struct, Generic[_Result], frozen=True):
    """Functions with which a command encodes, renders and prints its result."""

    encode_json: Callable[[_Result], str]
    render_markdown: Callable[[_Result], str]
    print_text: Callable[[_Result], None]


def show_result(result: _Result, formats: ResultFormats[_Result], files: Mapping[str, Path], *, as_json: bool) -> None:
    """Write a result to the files that options name, and print it.

    Args:
        result: The result.
        formats: Its formats.
        files: By `--json` and `--markdown`.
        as_json: Print JSON instead of text.
    """
    from optadvise.core.files import write_output

    encoders = {"--json": formats.encode_json, "--markdown": formats.render_markdown}
    for flag, path in files.items():
        write_output(path, encoders[flag](result))
    if as_json:
        sys.stdout.write(formats.encode_json(result))
    else:
        formats.print_text(result)


def kept(keep: Callable[[], None]) -> None:
    """Keep what was found for later answers; where that cannot be, say so, as the result itself is not lost.

    Args:
        keep: Writes it.
    """
    try:
        keep()
    except OSError as error:
        print(f"optadvise: not kept for later answers ({error.strerror}); set OPTADVISE_DATA_DIR", file=sys.stderr)


def origin(command: str, code: str | None = None, stated: Iterable[str] = ()) -> PageOrigin:
    """Return what a page says of its own making.

    Args:
        command: The command line that gives the same again.
        code: A program that does what is advised.
        stated: The facts that were stated.
    """
    from optadvise.render.html.page import PageOrigin

    return PageOrigin(version=__version__, command=command, code=code, stated=tuple(stated))


def command(name: str, typed: Mapping[str, Any]) -> str:
    """Return the command line that was typed.

    Args:
        name: The command.
        typed: Its arguments as `names`, and the values of options by their spelling; None, False or empty is left out.

    Example:
        >>> command("recommend", {"gpu": "rtx 4090", "clipping": True, "rules": None})
        "optadvise recommend --gpu 'rtx 4090' --clipping"
    """
    arguments = ["optadvise", name, *typed.get("names", ())]
    for option, value in typed.items():
        if option == "names" or value is False or value in (None, (), []):
            continue
        flag = f"--{option.rstrip('_').replace('_', '-')}"  # as every option is spelled
        for one in value if isinstance(value, (list, tuple)) else [value]:
            arguments += [flag] if one is True else [flag, f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(arguments)


def page(result: BenchmarkResult, line: str) -> str:
    """Return a measurement as a page of HTML.

    Args:
        result: The result of `optadvise bench`.
        line: The command line that measures it again.
    """
    from optadvise.render.html.benchmark import render_benchmark

    return render_benchmark(result, origin(line))
