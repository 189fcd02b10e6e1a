"""Output files of results, and the command line that reproduces a result."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.text import clean_text
from optadvise.core.version import __version__

if TYPE_CHECKING:
    from optadvise.benchmark.records import BenchmarkResult
    from optadvise.render.html.page import PageOrigin

_Result = TypeVar("_Result")


def places(named: Mapping[str, Path | str | None], inputs: Iterable[Path | str | None] = ()) -> dict[str, Path]:
    """Return the output files, after checking that each can be written.

    Args:
        named: File by option; None where the option is not given.
        inputs: Files and folders that the command reads; None where the option is not given.

    Raises:
        InputError: A file cannot be written, is stdout, belongs to two options, or is read by the command.
    """
    from optadvise.core.files import check_writable

    read = [os.path.realpath(path) for path in inputs if path is not None]
    files = {flag: Path(path) for flag, path in named.items() if path is not None}
    for flag, path in files.items():
        if str(path) == "-":
            remedy = "remove it to print on stdout" if flag == "--output" else "use a file name"
            message = f"{flag} - is not supported; {remedy}"
            raise InputError(message, code=ErrorCode.INVALID_VALUE, option=flag, value="-")
        if flag == "--report" and path.suffix.lower() not in (".html", ".htm"):
            message = f"{flag} {str(path)!r} must end in .html"
            raise InputError(message, code=ErrorCode.WRONG_FILE_TYPE, option=flag, value=path)
        check_writable(path, flag)
        real = os.path.realpath(path)
        same = next((other for other in files if other != flag and os.path.realpath(files[other]) == real), None)
        if same is not None:
            message = f"{flag} {str(path)!r}: {same} writes to the same file; use different files"
            raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option=flag, value=path)
        if path.exists() and any(real == one or real.startswith(f"{one}{os.sep}") for one in read):
            message = f"{flag} {str(path)!r}: the command reads this file; use another file"
            raise InputError(message, code=ErrorCode.OPTION_CONFLICT, option=flag, value=path)
    return files


@contextlib.contextmanager
def redirect_to(file: Path | None, inputs: Iterable[Path | str | None] = ()) -> Iterator[None]:
    """Write everything that is printed to a file; print it where the file is None.

    Args:
        file: File of `--output`, which is checked first; so the block contains what takes long.
        inputs: Files and folders that the command reads.

    Raises:
        InputError: The file cannot be written.
    """
    if file is None:
        yield
        return
    from optadvise.core.files import write_output

    places({"--output": file}, inputs)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        yield
    write_output(file, text.getvalue(), "--output")


class ResultFormats(Struct, Generic[_Result], frozen=True):
    """Functions with which a command encodes, renders and prints its result."""

    encode_json: Callable[[_Result], str]
    render_markdown: Callable[[_Result], str]
    print_text: Callable[[_Result], None]


def show_result(result: _Result, formats: ResultFormats[_Result], files: Mapping[str, Path], *, as_json: bool) -> None:
    """Write a result to the files that options name, and print it; text is printed even if a file cannot be written.

    Args:
        result: The result.
        formats: Its formats.
        files: By `--json` and `--markdown`.
        as_json: Print JSON instead of text.
    """
    print_result(result, formats, try_to_write_result(result, formats, files), as_json=as_json)


def try_to_write_result(
    result: _Result, formats: ResultFormats[_Result], files: Mapping[str, Path]
) -> InputError | None:
    """Write a result to its files, which are by `--json` and `--markdown`; return the error if that fails."""
    try:
        write_result(result, formats, files)
    except InputError as error:
        return error
    return None


def print_result(
    result: _Result, formats: ResultFormats[_Result], failure: InputError | None, *, as_json: bool
) -> None:
    """Print a result.

    Args:
        result: The result.
        formats: Its formats.
        failure: Error of its files, raised after the text is printed; for JSON, the error is the object on stdout.
        as_json: Print JSON instead of text.
    """
    if not as_json:
        formats.print_text(result)
    if failure is not None:
        raise failure
    if as_json:
        sys.stdout.write(formats.encode_json(result))


def write_result(result: _Result, formats: ResultFormats[_Result], files: Mapping[str, Path]) -> None:
    """Write a result to its files, which are by `--json` and `--markdown`."""
    from optadvise.core.files import write_output

    encoders = {"--json": formats.encode_json, "--markdown": formats.render_markdown}
    for flag, path in files.items():
        write_output(path, encoders[flag](result), flag)


def report_written(file: Path) -> None:
    """Print on stderr which file was written."""
    print(f"wrote {clean_text(str(file))}", file=sys.stderr)


def save_evidence(save: Callable[[], None]) -> bool:
    """Store findings for later answers; print a warning where that fails, as the result itself is not lost.

    Args:
        save: Writes the findings.

    Returns:
        Whether they are stored.
    """
    try:
        save()
    except OSError as error:
        print(
            f"optadvise: warning: the result is not stored ({error.strerror}); set OPTADVISE_DATA_DIR",
            file=sys.stderr,
        )
        return False
    return True


def origin(command: str, code: str | None = None, stated: Iterable[str] = ()) -> PageOrigin:
    """Return the origin of an HTML report.

    Args:
        command: Command line that reproduces it.
        code: Program that follows the recommendation.
        stated: Names of the specified facts.
    """
    from optadvise.render.html.page import PageOrigin

    return PageOrigin(version=__version__, command=command, code=code, stated=tuple(stated))


def command(name: str, typed: Mapping[str, Any]) -> str:
    """Return the command line that was typed.

    Args:
        name: The command.
        typed: Arguments under `names`, and values of options by name; None, False and empty values are omitted.

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
    """Return a measurement as an HTML page.

    Args:
        result: The result of `optadvise bench`.
        line: Command line that repeats the measurement.
    """
    from optadvise.render.html.benchmark import render_benchmark

    return render_benchmark(result, origin(line))
