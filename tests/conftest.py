"""Fixtures and environment of all tests: rules are read once, and the user's cache and data are not touched."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, settings

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.core import yaml_reader
from optadvise.rulebase.catalog import Catalog, load
from tests import fork_server
from tests.cuda_stand_in.session import StandIn, cuda_stand_in

_Test = TypeVar("_Test")
ROOT = Path(__file__).parent.parent
# Tests run in parallel on few cores, where threads of torch would slow each other down. Each test process therefore
# uses one core, because measurements use all cores that are available.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(_cores):
        os.sched_setaffinity(0, {_cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(_cores)]})
# Set before any module reads the rules. The processes of a test run share a cache, so that rules are proven once; the
# first process removes it.
if "OPTADVISE_TESTS_DIR" not in os.environ:
    os.environ["OPTADVISE_TESTS_DIR"] = tempfile.mkdtemp(prefix="optadvise-tests-")
    atexit.register(shutil.rmtree, os.environ["OPTADVISE_TESTS_DIR"], ignore_errors=True)
for _name in ("CACHE", "DATA"):
    os.environ[f"OPTADVISE_{_name}_DIR"] = f"{os.environ['OPTADVISE_TESTS_DIR']}/{_name.lower()}"
# With it, each new interpreter would compile the package, which takes longer than most commands.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The day for `rotated`, set here so that all processes of a test run use the same day at midnight.
os.environ.setdefault("OPTADVISE_TESTS_DAY", str(date.today().toordinal()))
IS_WHOLE = bool(os.environ.get("OPTADVISE_TESTS_WHOLE"))  # run all cases of randomized tests
_DAY = int(os.environ["OPTADVISE_TESTS_DAY"])
# A shell without job control makes its child processes ignore SIGINT, unlike an interactive shell.
signal.signal(signal.SIGINT, signal.default_int_handler)
fork_server.install()
# A busy machine is no failure.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
_MAX_TEXTS = 500
DATA, _COUNT = f"{os.environ['OPTADVISE_DATA_DIR']}/{os.getpid()}", itertools.count()


def _parse_once() -> None:
    """Parse a text once per process, because many tests read a copy of the shipped rules with one change."""
    compose, composed = yaml_reader._compose, dict[str, yaml.Node | None]()

    def compose_once(text: str, context: yaml_reader.Context) -> yaml.Node | None:
        if text not in composed:
            if len(composed) == _MAX_TEXTS:
                composed.clear()
            composed[text] = compose(text, context)
        return composed[text]

    yaml_reader._compose = compose_once


_parse_once()


def pytest_report_header() -> str:
    return f"rotated tests: those of OPTADVISE_TESTS_DAY={os.environ['OPTADVISE_TESTS_DAY']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the timeout of slow tests to one hour; pyproject.toml has the timeout of the others."""
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
def _empty_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own data folder, because answers quote the findings of `bench` and `verify`."""
    monkeypatch.setenv("OPTADVISE_DATA_DIR", f"{DATA}/{next(_COUNT)}")


def few(count: int, values: Sequence[Any]) -> list[Any]:
    """Return parameters of which all but the first `count` are marked slow."""
    return [*values[:count], *map(_slow, values[count:])]


def rotated(count: int, values: Sequence[Any]) -> list[Any]:
    """Return parameters of which all but `count`, which change daily, are marked slow."""
    start = _DAY * count
    today = {(start + number) % len(values) for number in range(count)}
    return [value if number in today else _slow(value) for number, value in enumerate(values)]


def by_turns(turn: int, turns: int) -> Callable[[_Test], _Test]:
    """Return a decorator that marks a test as slow on all days except one of every few.

    Args:
        turn: The day of this test; similar tests have other days.
        turns: Number of days after which it is run again.
    """
    mark: Any = pytest.mark.slow
    return lambda test: test if _DAY % turns == turn else mark(test)


def examples(count: int) -> int:
    """Return the number of examples of a property test: a quarter of `count`, unless OPTADVISE_TESTS_WHOLE is set."""
    return count if IS_WHOLE else max(1, count // 4)


def _slow(value: Any) -> Any:
    """Mark a parameter as slow; a tuple contains several parameters."""
    return pytest.param(*(value if type(value) is tuple else (value,)), marks=pytest.mark.slow)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load()


@pytest.fixture(scope="session")
def rules(catalog: Catalog) -> CompiledRules:
    return CompiledRules(catalog)


@pytest.fixture
def without_sensitivities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the sensitivities of recommendations, whose search takes three quarters of the time."""
    monkeypatch.setattr("optadvise.advice.recommend.find_sensitivities", lambda *_: ())


@pytest.fixture
def cold_processes() -> Iterator[None]:
    """Start processes with a new interpreter, as users do."""
    with fork_server.cold():
        yield


@pytest.fixture
def cuda() -> Iterator[Callable[..., StandIn]]:
    """Return a function that starts the stand-in for CUDA until the end of the test; see `cuda_stand_in`."""
    with contextlib.ExitStack() as stack:
        yield lambda *gpus, **options: stack.enter_context(cuda_stand_in(*gpus, **options))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a temporary folder with the workloads of `mine.py`."""
    from tests.bench import MINE

    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulate a full disk with a limit on the size of files."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
