"""Standard streams that may be closed or full, or be a pipe whose reader has exited."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


def prepare_streams() -> None:
    """Open closed standard streams, and let no stream that cannot be written change the exit code.

    Output is lost if the reader of stdout has exited, as in `| head`, or if stderr cannot be written. Other errors of
    stdout, such as a full disk, are raised.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:  # closed by the shell, as in >&-
            stream = open(os.devnull, mode)  # noqa: SIM115, PTH123
            os.dup2(stream.fileno(), number)
            os.set_inheritable(number, True)  # or a worker's first file would become its stderr
            setattr(sys, name, stream)
        elif number:
            setattr(sys, name, _tolerate(getattr(sys, name), BrokenPipeError if name == "stdout" else OSError))


def flush_stdout() -> None:
    """Flush stdout, and discard the output that cannot be written.

    Raises:
        OSError: It cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()
        raise


def discard_stdout() -> None:
    """Discard all further output, and what is still in the buffer."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


class _TolerantFile(io.FileIO):
    """File descriptor of a standard stream; some errors are ignored, and the data is lost."""

    def __init__(self, number: int, ignored: type[OSError]) -> None:
        super().__init__(number, "wb", closefd=False)
        self._ignored = ignored

    def write(self, data: Any) -> int:
        """Write bytes and return their number."""
        with contextlib.suppress(self._ignored):
            return super().write(data)
        return memoryview(data).nbytes


def _tolerate(stream: TextIO, ignored: type[OSError]) -> TextIO:
    """Return a text stream to the same file that ignores errors and prints ? for what its encoding lacks."""
    buffer = getattr(stream, "buffer", None)
    if not isinstance(stream, io.TextIOWrapper) or type(getattr(buffer, "raw", buffer)) is not io.FileIO:
        return stream  # a console of Windows
    return io.TextIOWrapper(
        io.BufferedWriter(_TolerantFile(stream.fileno(), ignored)), encoding=stream.encoding, errors="replace",
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip
