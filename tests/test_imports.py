"""Code that the command line does not name never runs: modules of the current folder, and classes of rule layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from optadvise import api
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark import sweep
from optadvise.core import start
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.worker import module_command
from optadvise.diagnostics.doctor import examine_machine
from optadvise.diagnostics.probe_client import probe_imports
from optadvise.fake_tensors.estimate import request_optimizers
from optadvise.rule_analysis import rule_folders
from optadvise.verify import audit_run
from tests.cli import CommandResult, optadvise
from tests.conftest import rotated
from tests.test_catalog import CARD
from tests.test_doctor import NO_CUDA, by_id, fake_probe

MARKER = "OPTADVISE_TEST_MARKER"
TRAP = f"import os\nwith open(os.environ[{MARKER!r}], 'a') as file:\n    file.write(__file__ + os.linesep)\n"
# Modules of Python and of the packages that commands import, those that Python imports at its start, and our own name.
NAMES = (
    "torch", "random", "typing", "json", "re", "pathlib", "dataclasses", "typer", "msgspec", "yaml", "tomllib", "numpy",
    "sitecustomize", "usercustomize", "conftest", "bitsandbytes/__init__", "optadvise/__init__",
)  # fmt: skip
# The installed program, which has its own folder first on `sys.path`.
INSTALLED = "import sys; del sys.path[0]; from optadvise.__main__ import main; sys.exit(main())"
SCHEDULE = """
id: our-decay
name: Our decay
family: hold
warmup: false
shape: Constant.
summary: A schedule of the team.
parameters: []
phases: [{shape: constant, import: evilmod.Schedule, kwargs: {factor: 1.0}}]
use_when: [A test requires it.]
avoid_when: [Any other use.]
cite: [measured]
"""
EVIL = """
import torch

class Own(torch.optim.SGD):
    pass

class Schedule(torch.optim.lr_scheduler.ConstantLR):
    pass

def workload():
    return torch.nn.Linear(4, 2), [(torch.zeros(8, 4), torch.zeros(8, 2))]
"""
QUICK = ("--params", "100K", "--optimizer-only", "--rounds", "1", "--steps", "1", "--threads", "1", "--control", "none")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a rule layer with a class and a schedule of a team, which is proven once."""
    folder = tmp_path_factory.mktemp("team")
    for name, text in (
        ("optimizers/sgd-turbo", CARD.replace("torch.optim.SGD", "evilmod.Own")), ("schedulers/our-decay", SCHEDULE)
    ):  # fmt: skip
        (folder / name).parent.mkdir()
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def traps(team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder of a repository with rules of its own, whose modules record that they run."""
    folder = tmp_path / "repository"
    for name, text in {
        **{f"{name}.py": TRAP for name in NAMES}, "evilmod.py": TRAP + EVIL,
        "pyproject.toml": f'[tool.optadvise]\nrules = ["{team}"]\n',
        "sweep.yaml": "optimizers: [turbo]\nrounds: 1\n", "matplotlibrc": "text.usetex: True\n",
        "workload.yaml": "optimizers: [adamw]\nworkload: evilmod:workload\n",
        "config.json": json.dumps({
            "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 128, "vocab_size": 1000, "_name_or_path": "evilmod",
            "auto_map": {"AutoModel": "evilmod.Own", "AutoConfig": "evilmod.Own"},
        }),
    }.items():  # fmt: skip
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv(MARKER, str(tmp_path / "marker"))
    return folder


@pytest.fixture
def importable(traps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the module of the team on the path of this process and its workers, so that only consent is missing."""
    (tmp_path / "site").mkdir()
    (traps / "evilmod.py").rename(tmp_path / "site" / "evilmod.py")
    for name in NAMES:  # which fake probes, unlike workers, would import
        (traps / f"{name}.py").unlink()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    return traps


def executed() -> list[str]:
    """Return the modules that ran."""
    marker = Path(os.environ[MARKER])
    return marker.read_text("utf-8").splitlines() if marker.exists() else []


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a new interpreter, as users do."""
    return subprocess.run(
        [*command], capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=600
    )


def installed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program."""
    return run([str(Path(sys.executable).parent / "optadvise"), *arguments])


@pytest.mark.usefixtures("traps", "cold_processes")
def test_modules_of_the_current_folder_do_not_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, typing, random, json, re, optadvise.core.text\nprint(optadvise.__file__)\n"
        "if sys.version_info >= (3, 11):  # PYTHONSAFEPATH exists\n"
        "    assert os.spawnl(os.P_WAIT, sys.executable, 'python', '-c', 'import random') == 0\n",
        encoding="utf-8",
    )
    worker = run(module_command("cProfile", "-o", str(tmp_path / "profile"), str(script)))
    assert (worker.returncode, executed()) == (0, []), worker.stderr
    assert str(Path(start.__file__).parents[1] / "__init__.py") in worker.stdout
    assert installed("recommend", "--hf-config", "config.json").returncode == 0
    assert executed() == []


@pytest.mark.usefixtures("cold_processes")
def test_python_m_does_not_run_modules_of_the_current_folder(traps: Path) -> None:
    (traps / "optadvise" / "__init__.py").unlink()  # Python itself would run it
    (traps / "optadvise").rmdir()
    result = run([sys.executable, "-m", "optadvise", "list"])
    assert (result.returncode, executed()) == (0, [])


@pytest.mark.usefixtures("cold_processes")
@pytest.mark.parametrize("name", ["types", "optadvise/__init__"])
def test_python_m_runs_the_modules_that_the_readme_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They run before the program, which therefore cannot prevent it."""
    trap = tmp_path / "repository" / f"{name}.py"
    trap.parent.mkdir(parents=True)
    trap.write_text(f"{TRAP}raise SystemExit(7)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.setenv(MARKER, str(tmp_path / "marker"))
    answer = (Path(start.__file__).parents[2] / "README.md").read_text("utf-8").partition("that I do not trust?**")[2]
    assert f"`{name.replace('__init__', '') if '/' in name else f'{name}.py'}`" in answer.partition("\n\n")[0]
    assert (run([sys.executable, "-m", "optadvise", "list"]).returncode, executed()) == (7, [str(trap)])


@pytest.mark.usefixtures("cold_processes")
@pytest.mark.parametrize(
    "entries", rotated(1, [":{root}", "{root}:", "{root}::{root}", ".:{root}", "{root}:../repository/"])
)
def test_python_path_does_not_add_the_current_folder(tmp_path: Path, traps: Path, entries: str) -> None:
    for name in NAMES:  # those that Python imports before the program
        if name not in ("torch", "random", "msgspec", "typer", "json"):
            (traps / f"{name}.py").unlink()
    (traps / "optadvise").rmdir()
    path = {"PYTHONPATH": entries.format(root=start.__file__.removesuffix("/optadvise/core/start.py"))}
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib, os, sys, torch, random, json, msgspec\n"
        "if sys.version_info >= (3, 11):  # PYTHONSAFEPATH exists\n"
        "    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, '-c', 'import torch') == 0\n"
        "from optadvise.core.start import add_current_folder\n"
        "add_current_folder()\nimport evilmod\n",
        encoding="utf-8",
    )
    for command in ([sys.executable, "-m", "optadvise", "list"], [sys.executable, "-c", INSTALLED, "list"]):
        result = run(command, **path)
        assert (result.returncode, executed()) == (0, []), result.stderr
    worker = run(module_command("cProfile", "-o", str(tmp_path / "profile"), str(script)), **path)
    assert (worker.returncode, executed()) == (0, [str(traps / "evilmod.py")]), worker.stderr


@pytest.mark.usefixtures("cold_processes")
def test_python_path_with_the_absolute_current_folder_is_kept(traps: Path) -> None:
    code = "from optadvise.core.start import remove_current_folder as remove; remove(); import sys; print(sys.path)"
    path = os.pathsep.join([str(traps), str(Path(start.__file__).parents[2]), ""])
    (traps / "optadvise" / "__init__.py").unlink()
    (traps / "optadvise").rmdir()
    for name in ("sitecustomize", "usercustomize"):
        (traps / f"{name}.py").unlink()
    result = run([sys.executable, "-c", code], PYTHONPATH=path)
    assert repr(str(traps)) in result.stdout, result.stderr


@pytest.mark.usefixtures("traps", "cold_processes")
def test_workers_import_the_installed_packages() -> None:
    result = probe_imports(["bitsandbytes.optim.AdamW8bit", "evilmod.Own"])
    assert result.torch.imports
    assert result.errors["bitsandbytes.optim.AdamW8bit"] is None
    assert "No module named 'evilmod'" in str(result.errors["evilmod.Own"])
    assert executed() == []


@pytest.mark.slow
@pytest.mark.usefixtures("traps", "cold_processes")
def test_measuring_in_a_foreign_folder(tmp_path: Path) -> None:
    quick = ("--rounds", "1", "--steps", "1", "--batch-size", "2", "--seq-len", "16")
    (tmp_path / "grid.yaml").write_text("optimizers: [adamw]\nrounds: 1\nsteps: 1\nbatch_size: 2\n", encoding="utf-8")
    advice = tmp_path / "advice.json"
    advice.write_text(installed("recommend", "--model", "transformer", "--json").stdout, encoding="utf-8")
    for line in (
        ("bench", "adamw", "adamw8bit", *quick), ("bench", "adamw", "--nproc", "2", *quick),
        ("bench", "--from", str(advice), *quick), ("verify", "adamw"), ("sweep", str(tmp_path / "grid.yaml")),
        ("trajectories", "adamw", "lion"),
        ("bench", "adamw", "--compile", "--workload", "mlp", "--control", "none", "--rounds", "1", "--steps", "1"),
    ):  # fmt: skip
        result = installed(*line)
        assert (result.returncode, executed()) == (0, []), (line, result.stderr)
    report = installed("doctor", "--json")
    (turbo,) = [card for card in json.loads(report.stdout)["optimizers"] if card["id"] == "sgd-turbo"]
    assert turbo["why_not"].startswith("not checked")
    assert (report.returncode, executed()) == (0, [])


@pytest.mark.usefixtures("importable")
def test_commands_that_import_nothing_need_no_consent(tmp_path: Path) -> None:
    for line in (
        "recommend --model cnn --optimizer turbo", "recommend --model cnn --optimizer turbo --format python",
        "estimate --hf-config config.json --all", "list", "show turbo", "show our-decay", "schedule our-decay",
        "rules check", f"schedule warmup-cosine --plot {tmp_path}/lr.svg",
    ):  # fmt: skip
        assert optadvise(*line.split()).code == 0, line
    assert executed() == []


def reject(*arguments: str, value: str = "evilmod.Own", file: str = "sgd-turbo.yaml") -> None:
    """Check that a command line asks for consent, in one line that names the class, its file and the option."""
    result = optadvise(*arguments)
    check_rejection(result, value)
    assert all(part in result.err for part in (value, file, "--allow-imports evilmod"))


def check_rejection(result: CommandResult, value: str) -> None:
    assert (result.code, result.out, result.error) == (2, "", ErrorCode.IMPORT_NOT_ALLOWED), result
    assert len(result.err.splitlines()) == 1
    assert result.failure is not None
    assert (result.failure.option, result.failure.value) == ("--allow-imports", value)
    assert executed() == []


@pytest.mark.usefixtures("importable")
def test_classes_of_rule_layers_require_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("bench turbo", "bench adamw --control turbo", "verify turbo", "trajectories turbo",
                 "sweep sweep.yaml", "bench turbo --allow-imports evilmo"):  # fmt: skip
        reject(*line.split())
    reject("sweep", "workload.yaml", value="evilmod:workload", file="workload.yaml")
    catalog = rule_folders.load_catalog(None)
    (entry,) = audit_run.list_entries(catalog, ["sgd-turbo"])
    (audit,) = audit_run.run_audits(
        [entry], command=("false",)
    )  # as by `verify` without names, which audits the others
    assert "evilmod.Own is not imported" in (audit.why or "")
    probe = fake_probe(NO_CUDA, {"evilmod": "crash"})
    assert "not checked" in by_id(examine_machine(catalog, command=probe))["sgd-turbo"].why_not
    assert "sgd-turbo" not in {each.id for each in request_optimizers(CompiledRules(catalog), catalog.optimizer_ids)}
    with pytest.raises(InputError) as raised:
        api.bench("turbo")
    assert raised.value.code == ErrorCode.IMPORT_NOT_ALLOWED
    monkeypatch.setenv("OPTADVISE_ALLOW_IMPORTS", "numpy, evil-mod")
    assert optadvise("bench", "turbo").error == ErrorCode.INVALID_VALUE


@pytest.mark.usefixtures("importable")
def test_consent_by_command_line_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = optadvise("bench", "turbo", *QUICK, "--allow-imports", "evilmod.Own", "--json", "-")
    assert result.code == 0, result.err
    assert json.loads(result.out)["arms"][0]["implementation"]["import"] == "evilmod.Own"
    assert executed() == [str(tmp_path / "site" / "evilmod.py")]
    monkeypatch.setenv("OPTADVISE_ALLOW_IMPORTS", "numpy, evilmod")
    rules = rule_folders.load_rules(None)
    for optimizer, options in (("turbo", {}), ("adamw", {"workload": ["evilmod:workload"]})):
        assert len(sweep.make_cells(rules, [optimizer], options)) == 1
    (entry,) = audit_run.list_entries(rules.catalog, ["sgd-turbo"])
    assert entry.why_not_imported is None
    probed = by_id(examine_machine(rules.catalog, command=fake_probe(NO_CUDA, {"evilmod": "crash"})))
    assert "SIGSEGV" in probed["sgd-turbo"].why_not


def set_class(advice: dict[str, Any]) -> None:
    advice["optimizer"]["import"] = "evilmod.Own"


def set_phase(advice: dict[str, Any]) -> None:
    advice["scheduler"]["phases"][0] |= {"import": "evilmod.Schedule", "shape": "constant"}


def set_shape(advice: dict[str, Any]) -> None:
    advice["scheduler"]["phases"][0]["shape"] = "step"


def set_kwargs(advice: dict[str, Any]) -> None:
    advice["scheduler"]["phases"][0]["kwargs"] = {"factor": {"import": "evilmod.Own"}}


def test_recommendations_import_only_classes_of_cards(importable: Path) -> None:
    text = optadvise("recommend", "--model", "transformer", "--json").out

    def bench(change: Callable[[dict[str, Any]], None]) -> CommandResult:
        advice = json.loads(text)
        change(advice)
        Path("advice.json").write_text(json.dumps(advice), encoding="utf-8")
        return optadvise("bench", "--from", "advice.json")

    check_rejection(bench(set_phase), "evilmod.Schedule")  # a rule layer lists it
    (importable / "pyproject.toml").unlink()
    for change in (set_phase, set_class, set_shape, set_kwargs):
        result = bench(change)
        assert (result.code, result.error) == (2, ErrorCode.INVALID_RECOMMENDATION), change
    assert executed() == []
