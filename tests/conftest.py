"""Shared by all tests: the rules are read once, and nothing touches the user's own cache."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.rulebase.catalog import Catalog, load
from tests import fork_server

ROOT = Path(__file__).parent.parent
# Tests run beside each other on few cores, where torch's own threads only get in each other's way: those of a
# measurement, which takes all cores that it finds, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(_cores):
        os.sched_setaffinity(0, {_cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(_cores)]})
# Before any module reads the rules. The processes of a run share a cache, so that rules are proven once; whichever
# started first removes it.
if "OPTADVISE_TESTS_DIR" not in os.environ:
    os.environ["OPTADVISE_TESTS_DIR"] = tempfile.mkdtemp(prefix="optadvise-tests-")
    atexit.register(shutil.rmtree, os.environ["OPTADVISE_TESTS_DIR"], ignore_errors=True)
for _name in ("CACHE", "DATA"):
    os.environ[f"OPTADVISE_{_name}_DIR"] = f"{os.environ['OPTADVISE_TESTS_DIR']}/{_name.lower()}"
# The day that `rotated` chooses by, set here so that all processes of a run agree at midnight.
os.environ.setdefault("OPTADVISE_TESTS_DAY", str(date.today().toordinal()))
# A shell without job control hands on that SIGINT is ignored, to what tests start as well; a person's shell does not.
signal.signal(signal.SIGINT, signal.default_int_handler)
fork_server.install()
DATA, _COUNT = f"{os.environ['OPTADVISE_DATA_DIR']}/{os.getpid()}", itertools.count()


def pytest_report_header() -> str:
    return f"tests that take turns: those of OPTADVISE_TESTS_DAY={os.environ['OPTADVISE_TESTS_DAY']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests an hour, where the others have what pyproject.toml says."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session", autouse=True)
def _plain_terminal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setenv("TYPER_USE_RICH", "0")
        for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "CLICOLOR_FORCE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `bench` and `verify` found is quoted in answers, so that no test may find what another kept."""
    monkeypatch.setenv("OPTADVISE_DATA_DIR", f"{DATA}/{next(_COUNT)}")


def few(count: int, values: Sequence[Any]) -> list[Any]:
    """Return values to go through, all but a few of which are left to `pytest -m slow`."""
    return [*values[:count], *map(_slow, values[count:])]


def rotated(count: int, values: Sequence[Any]) -> list[Any]:
    """Return values to go through, `count` of which have their turn today; `pytest -m slow` has the others."""
    start = int(os.environ["OPTADVISE_TESTS_DAY"]) * count
    today = {(start + number) % len(values) for number in range(count)}
    return [value if number in today else _slow(value) for number, value in enumerate(values)]


def examples(whole: int) -> int:
    """Return how many examples to try: a quarter, but all of them where OPTADVISE_TESTS_WHOLE is set."""
    return whole if os.environ.get("OPTADVISE_TESTS_WHOLE") else max(1, whole // 4)


def _slow(value: Any) -> Any:
    """Mark a value as slow; a tuple has the values of several parameters."""
    return pytest.param(*(value if type(value) is tuple else (value,)), marks=pytest.mark.slow)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load()


@pytest.fixture(scope="session")
def rules(catalog: Catalog) -> CompiledRules:
    return CompiledRules(catalog)


@pytest.fixture
def cold_processes() -> Iterator[None]:
    """Start processes as users do, by an interpreter that has to import everything."""
    with fork_server.cold():
        yield


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of its own, where the workloads of `mine.py` are."""
    from tests.bench import MINE

    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path
