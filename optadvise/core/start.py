"""`sys.path` without the current folder, and the start of worker processes: `python start.py MODULE ARGUMENTS`.

`python -m` puts the current folder first on `sys.path`, so that a `torch.py` or `random.py` in it would run; the option
`-P`, which prevents this, requires Python 3.11. An empty entry of PYTHONPATH (`:/folder`) has the same effect.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the folder of this file

import os  # loaded at the start of Python; the folder removed below could contain any other module


def remove_current_folder() -> None:
    """Remove the current folder from `sys.path` after `python -m` has put it there, and as an entry of PYTHONPATH."""
    if not getattr(sys.flags, "safe_path", False) and sys.path[:1] == [_get_current_folder()]:
        del sys.path[0]
    remove_python_path_entries()


def remove_python_path_entries() -> None:
    """Remove the current folder from `sys.path` and from PYTHONPATH where an empty or relative entry stands for it.

    An absolute path of the current folder is kept, because the user typed it.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folder = _get_current_folder()
    if entries == [""] or folder is None:
        return
    real = os.path.realpath(folder)
    kept = [entry for entry in entries if os.path.isabs(entry) or os.path.realpath(entry) != real]  # noqa: PTH117
    if len(kept) == len(entries):
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(kept)  # of processes that this one starts
    if real not in map(os.path.realpath, kept):
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != real]


def add_current_folder() -> None:
    """Put the current folder first on `sys.path`, for a module of the user that an option names."""
    folder = _get_current_folder()
    if folder is not None and folder not in sys.path:
        sys.path.insert(0, folder)


def _get_current_folder() -> str | None:
    """Return the current folder; None if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return None


def run_worker(module: str) -> None:
    """Run a module like `python -m`, with the package of this file even if `sys.path` has another version.

    Processes that the module starts inherit `PYTHONSAFEPATH`.
    """
    import runpy
    from importlib.util import module_from_spec, spec_from_file_location

    os.environ["PYTHONSAFEPATH"] = "1"
    folder = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
    spec = spec_from_file_location("optadvise", f"{folder}/__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["optadvise"] = package
    spec.loader.exec_module(package)
    from optadvise.core.lifeline import end_with_parent

    end_with_parent()  # before the module imports torch, which may hang
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    remove_python_path_entries()
    run_worker(sys.argv.pop(1))
