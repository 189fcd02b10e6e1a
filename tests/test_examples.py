"""The examples run as they stand, so that they cannot rot."""

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
from tests.conftest import ROOT
from tests.frameworks import load_program
from tests.results import SCHEMAS, result

CI = ROOT / "examples" / "ci"
TINY = {"OPTADVISE_ROUNDS": "2", "OPTADVISE_STEPS": "2"}
STUB = """#!/bin/sh
echo "$@" > "$CALLED"
exit {code}
"""


def environment(*first: Path, **variables: str) -> dict[str, str]:
    """What a step sees: the installed optadvise comes first, and nothing of what started these tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPTADVISE_", "GITHUB_", "PYTEST_"))}
    cache = os.environ["OPTADVISE_CACHE_DIR"]
    path = os.pathsep.join([*map(str, first), str(Path(sys.executable).parent), kept["PATH"]])
    return {**kept, "PATH": path, "OPTADVISE_CACHE_DIR": cache, **variables}


def run(command: list[str], folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def gate(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(["sh", str(CI / "gate.sh"), *arguments], folder, env)


def test_the_gate_fails_on_more_state_and_writes_both_files(tmp_path: Path) -> None:
    """That it passes where it should is seen in the workflow below."""
    env = environment(**TINY, OPTADVISE_STATE_BYTES="1.5", OPTADVISE_OUT="out")
    done = gate(tmp_path, env, "--optimizer-only", "--params", "1M")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "::error title=optadvise::a requirement failed: see out/bench.md" in done.stdout
    assert "fail: `state_bytes_per_parameter <= 1.5`" in (tmp_path / "out" / "bench.md").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, SCHEMAS["bench"])
    assert [r["verdict"] for r in data["requirements"]] == ["fail", "pass"]


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [(0, 0, "gate: every"), (1, 1, "::error"), (5, 0, "::warning"), (4, 4, "::error"), (2, 2, "::error")],
)
def test_what_the_gate_makes_of_each_exit_code(tmp_path: Path, code: int, ends: int, says: str) -> None:
    stub = tmp_path / "bin" / "optadvise"
    stub.parent.mkdir()
    stub.write_text(STUB.format(code=code), encoding="utf-8")
    stub.chmod(0o755)
    called = tmp_path / "called"
    done = gate(tmp_path, environment(stub.parent, CALLED=str(called), OPTADVISE_OPTIMIZERS="lion adan"), "--seed", "1")
    assert (done.returncode, done.stderr) == (ends, "")
    assert done.stdout.startswith(says)
    assert called.read_text(encoding="utf-8") == (
        "bench lion adan --rounds 7 --steps 10 --require state_bytes_per_parameter <= 2.1 --require state_bytes <= "
        "0.27x --json optadvise-results/bench.json --markdown optadvise-results/bench.md --seed 1\n"
    )


def workflow() -> dict[Any, Any]:
    data: dict[Any, Any] = yaml.safe_load((CI / "optadvise.yml").read_text(encoding="utf-8"))
    return data


def test_the_workflow_has_the_parts_that_github_asks_for() -> None:
    data = workflow()
    assert set(data[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as a truth
    assert data["permissions"] == {"contents": "read"}
    steps = data["jobs"]["gate"]["steps"]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert all("${{" not in step.get("run", "") for step in steps), "text that others write would be run"
    upload = next(step for step in steps if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert upload["with"]["path"] == data["env"]["OPTADVISE_OUT"]
    bases = {step["with"]["path"] for step in steps if "cache/" in step.get("uses", "")}
    assert bases == {"optadvise-base"}
    on_pull_requests = [s["name"] for s in steps if s.get("if") == "github.event_name == 'pull_request'"]
    assert on_pull_requests == ["Fetch the base", "Compare with the base"]


def test_the_steps_of_the_workflow_run(tmp_path: Path) -> None:
    """All but the installation, in order: what the push keeps is what the pull request is compared with."""
    data = workflow()
    shutil.copytree(CI, tmp_path / "examples" / "ci")
    summary = tmp_path / "summary.md"
    env = environment(**TINY, **data["env"], GITHUB_STEP_SUMMARY=str(summary))
    steps = [step for step in data["jobs"]["gate"]["steps"] if "run" in step]
    assert [step["name"] for step in steps if "pip install" in step["run"]] == ["Install"]
    said = {}
    for step in steps[1:]:
        done = run(["bash", "-e", "-c", step["run"]], tmp_path, env)
        assert done.returncode == 0, f"{step['name']}: {done.stdout}{done.stderr}"
        said[step["name"]] = done.stdout
    assert "gate: every requirement is kept" in said["Measure, and gate what is exact"]
    for name in ("bench", "comparison"):
        written = json.loads((tmp_path / data["env"]["OPTADVISE_OUT"] / f"{name}.json").read_text(encoding="utf-8"))
        jsonschema.validate(written, SCHEMAS[name])
        assert written["verdict"] == "pass"
    shown = summary.read_text(encoding="utf-8")
    assert shown.count("|---|") == 2
    assert "state_bytes_per_parameter <= 1x" in shown


def test_a_pull_request_without_a_base_passes_and_one_with_more_state_does_not(tmp_path: Path) -> None:
    step = next(s for s in workflow()["jobs"]["gate"]["steps"] if s.get("name") == "Compare with the base")
    env = environment(OPTADVISE_OUT=".")
    done = run(["bash", "-e", "-c", step["run"]], tmp_path, env)
    assert (done.returncode, "no base yet" in done.stdout) == (0, True)
    (tmp_path / "optadvise-base").mkdir()
    (tmp_path / "optadvise-base" / "bench.json").write_text(json.dumps(result()), encoding="utf-8")
    (tmp_path / "bench.json").write_text(json.dumps(result(state=900, seed=5)), encoding="utf-8")
    done = run(["bash", "-e", "-c", step["run"]], tmp_path, env)
    assert done.returncode == 1, done.stderr
    assert "::error title=optadvise::more state than the base" in done.stdout


# -- trainings -------------------------------------------------------------------------------------------------------

TRAININGS = {"byte_lm": {"make_example", "compute_loss"}, "cnn_digits": {"make_example", "compute_loss"},
             "lora_pydoc": {"make_example", "make_tiny_model", "StopEarly"}}  # fmt: skip


def parts(text: str) -> dict[str, str]:
    """Return a program's functions, classes and settings, each as a tree that comments and quotes do not change."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = ast.dump(node)
        elif isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = ast.dump(node)
    return found


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_what_the_command_at_its_head_prints(name: str) -> None:
    text = (ROOT / "examples" / "training" / f"{name}.py").read_text(encoding="utf-8")
    line = re.search(r"(?m)^    (optadvise recommend .*)$", text)
    assert line is not None
    printed = optadvise(*shlex.split(line[1])[1:])
    assert printed.code == 0
    ours, theirs = parts(text), parts(printed.out)
    for part in theirs.keys() - TRAININGS[name]:
        assert ours[part] == theirs[part], f"{part} of {name}.py is not what the command prints now"


@pytest.mark.filterwarnings("ignore")  # of torch's schedules and of transformers
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_learns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "lora_pydoc":
        pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    if name == "cnn_digits":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.chdir(tmp_path)
    module = load_program((ROOT / "examples" / "training" / f"{name}.py").read_text(encoding="utf-8"), tmp_path)
    module.total_steps = 20  # of the Trainer's
    others: dict[str, Any] = {"disable_tqdm": True, "use_cpu": True} if name == "lora_pydoc" else {}
    before, after = module.main(steps=20, **others)
    assert after > before if name == "cnn_digits" else after < before
