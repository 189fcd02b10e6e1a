"""The examples run unchanged."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cli import optadvise
from tests.conftest import ROOT, by_turns, rotated
from tests.frameworks import load_program
from tests.results import SCHEMAS, result

CI = ROOT / "examples" / "ci"
TINY = {"OPTADVISE_ROUNDS": "2", "OPTADVISE_STEPS": "2"}
STUB = """#!/bin/sh
echo "$@" > "$CALLED"
exit {code}
"""


def environment(*first: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a step: the installed optadvise first on PATH, without variables of the test run."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OPTADVISE_", "GITHUB_", "PYTEST_"))}
    cache = os.environ["OPTADVISE_CACHE_DIR"]
    path = os.pathsep.join([*map(str, first), str(Path(sys.executable).parent), inherited["PATH"]])
    return {**inherited, "PATH": path, "OPTADVISE_CACHE_DIR": cache, **variables}


def run(command: list[str], folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def gate(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(["sh", str(CI / "gate.sh"), *arguments], folder, env)


@by_turns(0, 2)
def test_gate_fails_on_more_state(tmp_path: Path) -> None:
    """The test of the workflow covers a gate that passes."""
    env = environment(**TINY, OPTADVISE_STATE_BYTES="1.5", OPTADVISE_OUT="out")
    done = gate(tmp_path, env, "--optimizer-only", "--params", "1M")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "::error title=optadvise::a requirement failed: see out/bench.md" in done.stdout
    assert "fail: `state_bytes_per_parameter <= 1.5`" in (tmp_path / "out" / "bench.md").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, SCHEMAS["bench"])
    assert [r["verdict"] for r in data["requirements"]] == ["fail", "pass"]


@pytest.mark.parametrize(
    ("code", "exit_code", "prefix"),
    [(0, 0, "gate: "), (1, 1, "::error"), (5, 0, "::warning"), (4, 4, "::error"), (2, 2, "::error")],
)
def test_gate_maps_exit_codes(tmp_path: Path, code: int, exit_code: int, prefix: str) -> None:
    stub = tmp_path / "bin" / "optadvise"
    stub.parent.mkdir()
    stub.write_text(STUB.format(code=code), encoding="utf-8")
    stub.chmod(0o755)
    called = tmp_path / "called"
    done = gate(tmp_path, environment(stub.parent, CALLED=str(called), OPTADVISE_OPTIMIZERS="lion adan"), "--seed", "1")
    assert (done.returncode, done.stderr) == (exit_code, "")
    assert done.stdout.startswith(prefix)
    assert called.read_text(encoding="utf-8") == (
        "bench lion adan --rounds 7 --steps 10 --require state_bytes_per_parameter <= 2.1 --require state_bytes <= "
        "0.27x --json optadvise-results/bench.json --markdown optadvise-results/bench.md --seed 1\n"
    )


def workflow() -> dict[Any, Any]:
    data: dict[Any, Any] = yaml.safe_load((CI / "optadvise.yml").read_text(encoding="utf-8"))
    return data


def test_workflow_is_valid() -> None:
    data = workflow()
    assert set(data[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as true
    assert data["permissions"] == {"contents": "read"}
    steps = data["jobs"]["gate"]["steps"]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert all("${{" not in step.get("run", "") for step in steps), "shell injection"
    upload = next(step for step in steps if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["with"]["path"] == data["env"]["OPTADVISE_OUT"]
    bases = {step["with"]["path"] for step in steps if "cache/" in step.get("uses", "")}
    assert bases == {"optadvise-base"}
    on_pull_requests = [s["name"] for s in steps if s.get("if") == "github.event_name == 'pull_request'"]
    assert on_pull_requests == ["Fetch the base", "Compare with the base"]


@by_turns(1, 2)
def test_steps_of_the_workflow_run(tmp_path: Path) -> None:
    """All steps but the installation, in order: the pull request is compared with the base of the push."""
    data = workflow()
    shutil.copytree(CI, tmp_path / "examples" / "ci")
    summary = tmp_path / "summary.md"
    env = environment(**TINY, **data["env"], GITHUB_STEP_SUMMARY=str(summary))
    steps = [step for step in data["jobs"]["gate"]["steps"] if "run" in step]
    assert [step["name"] for step in steps if "pip install" in step["run"]] == ["Install"]
    outputs = {}
    for step in steps[1:]:
        done = run(["bash", "-e", "-c", step["run"]], tmp_path, env)
        assert done.returncode == 0, f"{step['name']}: {done.stdout}{done.stderr}"
        outputs[step["name"]] = done.stdout
    assert outputs["Run the benchmark"].splitlines()[-1].startswith("gate: ")
    for name in ("bench", "comparison"):
        written = json.loads((tmp_path / data["env"]["OPTADVISE_OUT"] / f"{name}.json").read_text(encoding="utf-8"))
        jsonschema.validate(written, SCHEMAS[name])
        assert written["verdict"] == "pass"
    tables = summary.read_text(encoding="utf-8")
    assert tables.count("|---|") == 2
    assert "state_bytes_per_parameter <= 1x" in tables


def test_comparison_with_the_base(tmp_path: Path) -> None:
    step = next(s for s in workflow()["jobs"]["gate"]["steps"] if s.get("name") == "Compare with the base")
    env = environment(OPTADVISE_OUT=".")
    done = run(["bash", "-e", "-c", step["run"]], tmp_path, env)
    assert (done.returncode, "::notice" in done.stdout) == (0, True)
    (tmp_path / "optadvise-base").mkdir()
    (tmp_path / "optadvise-base" / "bench.json").write_text(json.dumps(result()), encoding="utf-8")
    (tmp_path / "bench.json").write_text(json.dumps(result(state=900, seed=5)), encoding="utf-8")
    done = run(["bash", "-e", "-c", step["run"]], tmp_path, env)
    assert done.returncode == 1, done.stderr
    assert "::error title=optadvise::more state than the base" in done.stdout


# -- training programs -----------------------------------------------------------------------------------------------

PROGRAMS = {"byte_lm": {"make_example", "compute_loss"}, "cnn_digits": {"make_example", "compute_loss"},
             "lora_pydoc": {"make_example", "make_tiny_model", "StopEarly"}}  # fmt: skip


def parse_parts(text: str) -> dict[str, str]:
    """Return a program's functions, classes and settings as syntax trees, which ignore comments and quotes."""
    parts = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            parts[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign):
            parts[ast.unparse(node.targets[0])] = ast.dump(node)
    return parts


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_equals_output_of_its_command(name: str) -> None:
    text = (ROOT / "examples" / "training" / f"{name}.py").read_text(encoding="utf-8")
    line = re.search(r"(?m)^    (optadvise recommend .*)$", text)
    assert line is not None
    printed = optadvise(*shlex.split(line[1])[1:])
    assert printed.code == 0
    example, generated = parse_parts(text), parse_parts(printed.out)
    for part in generated.keys() - PROGRAMS[name]:
        assert example[part] == generated[part], f"{part} of {name}.py differs from the output of the command"


@pytest.mark.filterwarnings("ignore")  # of torch's schedules and of Transformers
@pytest.mark.parametrize("name", rotated(1, [*PROGRAMS]))
def test_program_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "lora_pydoc":
        pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    if name == "cnn_digits":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.chdir(tmp_path)
    module = load_program((ROOT / "examples" / "training" / f"{name}.py").read_text(encoding="utf-8"), tmp_path)
    module.total_steps = 20  # for the Trainer
    overrides: dict[str, Any] = {"disable_tqdm": True, "use_cpu": True} if name == "lora_pydoc" else {}
    before, after = module.main(steps=20, **overrides)
    assert after > before if name == "cnn_digits" else after < before
