"""Result files: found to be writable before measuring, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.paths import data_folder

_PROBE_BYTES = 1 << 20  # a result with its samples is smaller


def saved(name: str) -> Path:
    """Return where a result of a name is kept.

    Raises:
        InputError: The name is none that a file can have.
    """
    if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith("."):
        raise InputError(f"--save {name!r}: a name has letters, digits, '-', '_' and '.', as in main-2024")
    return data_folder() / "results" / f"{name}.json"


def save_place(name: str) -> Path:
    """Return where a result of a name will be kept, in a folder that is there.

    Raises:
        InputError: The name is none that a file can have, or the folder cannot be made.
    """
    path = saved(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{str(path.parent)!r} cannot be made ({error.strerror}); set OPTADVISE_DATA_DIR"
        raise InputError(f"--save {name!r}: {message}") from error
    return path


def check_writable(path: Path, flag: str) -> None:
    """Fail now where writing would fail after an hour of measuring.

    Args:
        path: The file that will be written.
        flag: The option that named it.

    Raises:
        InputError: The folder is missing, read-only or full, or the path is a folder, a device or a pipe.
    """
    if str(path).startswith(("/dev/std", "/dev/fd/")):
        raise InputError(f"{flag} {str(path)!r}: is no file; name one")
    try:
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise InputError(f"{flag} {str(path)!r}: is a link to itself; name another file")
        if path.is_dir():
            raise InputError(f"{flag} {str(path)!r}: is a folder; name a file in it")
        if path.exists() and not path.is_file():  # it would be replaced, /dev/null too
            raise InputError(f"{flag} {str(path)!r}: is no regular file; name one")
        if not path.parent.is_dir():
            raise InputError(f"{flag} {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as probe:
            probe.write(b"\0" * _PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise InputError(f"{flag} {str(path)!r}: cannot be written ({error.strerror}); name another place") from error


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part; links are followed.

    Args:
        path: The file.
        content: Its text, or what it holds.

    Raises:
        InputError: The disk filled up since `check_writable`, or the folder went away.
    """
    path = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(content.encode("utf-8") if isinstance(content, str) else content)
                out.flush()
                os.fsync(out.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise InputError(f"{str(path)!r}: cannot be written ({error.strerror}); name another place") from error


def read_result(name: str) -> dict[str, Any]:
    """Return a result by its file or by the name it was saved under.

    Raises:
        InputError: There is no such file.
        RuleFileError: The file is no result of `optadvise bench`.
    """
    path = Path(name)
    if not path.is_file():
        path = saved(name) if re.fullmatch(r"[\w.-]{1,100}", name) else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name!r}: no such result ({error.strerror}); name a file, or a --save name") from error
    except ValueError as error:
        raise RuleFileError(f"no JSON ({error}); make it with optadvise bench --json FILE", str(path)) from error
    if not isinstance(data, dict) or data.get("kind") != "bench" or not isinstance(data.get("arms"), list):
        raise RuleFileError("no result of optadvise bench; make it with optadvise bench --json FILE", str(path))
    if data.get("schema_version") != 1:
        raise RuleFileError(f"schema version {data.get('schema_version')!r} is not known here", str(path))
    return data
