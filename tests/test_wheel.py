"""The wheel contains the rules and works from another folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_contains_the_rules_the_license_and_the_type_marker(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {str(f.relative_to(ROOT / "rules")) for f in (ROOT / "rules").rglob("*") if f.is_file()}
    assert {n.removeprefix("optadvise/_rules/") for n in names if n.startswith("optadvise/_rules/")} == shipped
    assert "optadvise/py.typed" in names
    assert any(n.endswith("LICENSE") for n in names)
    assert not any(n.startswith(("tests/", "rules/")) for n in names)


def test_an_installed_wheel_reads_its_own_rules(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import optadvise\nfrom optadvise.rulebase.rule_paths import find_shipped_rules\n"
        f"assert optadvise.__file__.startswith({str(site)!r}), optadvise.__file__\n"
        f"assert str(find_shipped_rules()).startswith({str(site)!r})\n"
        "from optadvise.cli.app import run\n"
        "raise SystemExit(run(sys.argv[1:]))\n"
    )

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "adamw8bit" in run("recommend", "--model", "transformer", "--vram", "24GB")
    run("recommend", "--report", "page.html")  # uses the templates of the wheel
    assert "def configure(model):" in run("recommend", "--format", "python")
    assert "</html>" in (elsewhere / "page.html").read_text(encoding="utf-8")
    # A rule layer over the rules of the wheel:
    shutil.copytree(ROOT / "examples" / "team-rules", elsewhere / "team")
    assert "Proven" in run("rules", "check", "--rules", "team")
    assert "0 failed" in run("rules", "test", "--rules", "team")
    line = [
        "recommend",
        "--model",
        "transformer",
        "--params",
        "350M",
        "--batch-size",
        "4096",
        "--rules",
        "team",
        "--explain",
    ]
    assert "from team" in run(*line)
