"""What makes the command comfortable in a shell: completion, help that is true, colours as asked, a man page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.benchmark.sweep import OPTIONS, make_cells
from optadvise.benchmark.sweep_file import read_sweep
from optadvise.cli.app import COMMANDS
from optadvise.cli.help import group_by_heading
from optadvise.cli.rules import _EXAMPLES as RULES
from optadvise.rulebase.catalog import load
from tests.cli import optadvise
from tests.conftest import ROOT, rotated

CATALOG = load()
BIN = Path(sys.executable).parent
EXAMPLES = [line for command in COMMANDS.values() for line in command.examples]
EXAMPLES += [line for lines in RULES.values() for line in lines]
RUN = [line for line in EXAMPLES if not re.search(" (bench|compare|sweep) ", line)]
LONG = [line for line in RUN if re.search("verify adamw lamb|--surface|--mutants", line)]  # seconds; they take turns
PAGES = [[name] for name in COMMANDS] + [["rules", name] for name in RULES] + [[]]


def offered(typed: str, shell: str = "bash") -> list[str]:
    """Return what a shell is offered after some words; a word that ends the text is being typed."""
    words = shlex.split(typed.replace("'", "")) + ([""] if typed.endswith(" ") else [])
    told = {
        "bash": {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": typed},
        "fish": {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    run = subprocess.run(
        [sys.executable, "-m", "optadvise"], text=True, capture_output=True, check=True,
        env={**os.environ, **told, "_OPTADVISE_COMPLETE": f"complete_{shell}", "_PYTHON_M_OPTADVISE_COMPLETE": ""},
    )  # fmt: skip
    assert run.stderr == ""
    return run.stdout.strip().splitlines()


@pytest.mark.parametrize(
    ("typed", "wanted"),
    rotated(6, [
        ("optadvise ben", ["bench"]),
        ("optadvise recommend --opti", ["--optimizer"]),
        ("optadvise recommend --optimizer lio", ["lion", "lion8bit"]),
        ("optadvise recommend --why-not mu", ["muon"]),
        ("optadvise recommend --gpu rtx-409", ["rtx-4090"]),
        ("optadvise recommend --model v", ["vit"]),
        ("optadvise recommend --model segf", ["segformer"]),
        ("optadvise recommend --format li", ["lightning"]),
        ("optadvise estimate --arch llama-3-8", ["llama-3-8b"]),
        ("optadvise schedule warmup-l", ["warmup-linear"]),
        ("optadvise schedule wsd --compare one", ["one-cycle"]),
        ("optadvise show OPT060", ["OPT060"]),
        ("optadvise show stab", ["stable-adamw"]),
        ("optadvise bench --workload m", ["mlp"]),
        ("optadvise trajectories --surface r", ["rosenbrock", "rastrigin"]),
        ("optadvise list --family lay", ["layerwise"]),
        ("optadvise rules ch", ["check"]),
    ]),
)  # fmt: skip
def test_completion_of_names(typed: str, wanted: list[str]) -> None:
    assert offered(typed) == wanted


def test_completion_has_one_line_per_name_in_every_shell() -> None:
    assert set(offered("optadvise bench ")) == {*CATALOG.optimizer_ids}
    fish = [line.split("\t") for line in offered("optadvise bench ", "fish")]
    assert {name for name, _ in fish} == {*CATALOG.optimizer_ids}
    assert all(about for _, about in fish)
    zsh = "".join(offered("optadvise bench ", "zsh"))
    assert len(offered("optadvise bench ", "zsh")) == len(CATALOG.optimizer_ids)
    assert all(f'"{name}":' in zsh for name in CATALOG.optimizer_ids)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_of_each_shell(shell: str) -> None:
    run = subprocess.run([BIN / "optadvise", "--show-completion", shell], text=True, capture_output=True, check=True)
    assert "_OPTADVISE_COMPLETE" in run.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_in_a_real_bash() -> None:
    script = """
eval "$(optadvise --show-completion bash)"
COMP_WORDS=(optadvise bench stable) COMP_CWORD=2
_optadvise_completion optadvise stable bench
echo "${COMPREPLY[@]}"
"""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    run = subprocess.run(["bash", "-c", script], text=True, capture_output=True, check=True, env=env)
    assert run.stdout.split() == ["stable-adamw"]


def test_completion_ignores_broken_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "warn.yaml").write_text("table: [", encoding="utf-8")
    monkeypatch.setenv("OPTADVISE_RULES", str(tmp_path))
    assert offered("optadvise bench ad") == []


@pytest.mark.parametrize("line", [*(line for line in RUN if line not in LONG), *rotated(1, LONG)])
def test_examples_of_help_pages_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our-rules").symlink_to(ROOT / "examples" / "team-rules")
    monkeypatch.chdir(tmp_path)
    line = line.replace("init our-rules", "init new-rules")
    result = optadvise(*shlex.split(line)[1:])
    assert result.code == 0, result.err
    written = re.search(r"(?:-o|--output|--plot) (\S+)", line)
    assert result.out or result.err or (written and Path(written[1]).exists())


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_help_fits_80_columns_and_ends_with_examples_and_exit_codes(page: list[str]) -> None:
    result = optadvise(*page, "--help")
    assert result.code == 0
    assert all(len(line) <= 80 for line in result.out.splitlines())
    assert "Exit codes: 0 success" in result.out
    if page:
        example = re.search(r"Examples:\n    (optadvise .*)", result.out)
        assert example is not None
        assert example[1].startswith(f"optadvise {' '.join(page)}")
    assert "..." not in result.out.replace("[NAME]...", "").replace("[ARGS]...", "").replace("NAME...", "")


def test_help_groups_options_and_commands() -> None:
    result = optadvise("recommend", "--help").out
    places = [result.index(f"\n{heading}:\n") for heading in ("The run", "Model", "Memory", "Output", "Options")]
    assert places == sorted(places)
    assert result.index("\nOutput:\n") < result.index("--report")
    front = optadvise("--help").out
    assert all(f"\n{command.heading}:\n" in front for command in COMMANDS.values())


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, False), ({"CLICOLOR_FORCE": "1"}, True), ({"CLICOLOR_FORCE": "0"}, False), ({"FORCE_COLOR": "1"}, True),
     ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False), ({"NO_COLOR": "1"}, False)],
)  # fmt: skip
def test_colors_follow_the_environment(
    env: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("NO_COLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for words in (["recommend"], ["list"], ["show", "lion"], ["estimate", "--params", "1B"]):
        assert ("\x1b[" in optadvise(*words).out) == coloured
    optadvise("recommend", "-o", str(tmp_path / "advice.txt"))
    assert "\x1b[" not in (tmp_path / "advice.txt").read_text(encoding="utf-8")
    assert "\x1b[" not in optadvise("recommend", "--json").out


def test_man_page_is_up_to_date() -> None:
    """`optadvise --man > docs/optadvise.1` writes it anew."""
    assert optadvise("--man").out == (ROOT / "docs" / "optadvise.1").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_man_page_is_valid_roff() -> None:
    run = subprocess.run(
        ["groff", "-Kutf8", "-man", "-Tutf8", "-ww", "-z", str(ROOT / "docs" / "optadvise.1")],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert run.stderr == ""


def test_version() -> None:
    from optadvise import __version__

    assert optadvise("--version").out == f"optadvise {__version__}\n"


@pytest.mark.parametrize(
    ("record", "spelling"),
    [
        ("--claim <str>", "--claim TEXT"),
        ("--claim <list[str]>", "--claim TEXT"),  # since typer 0.29
        ("-o, --out <list[Path]>", "-o, --out FILE"),
        ("--task [pretrain|finetune]", "--task [pretrain|finetune]"),
    ],
)
def test_metavars_are_equal_with_every_typer(record: str, spelling: str) -> None:
    parameter = SimpleNamespace(param_type_name="option", get_help_record=lambda ctx: (record, "Help."))
    command = SimpleNamespace(get_params=lambda ctx: [parameter])
    assert group_by_heading(command, None) == {"Options": [(spelling, "Help.")]}


def test_sample_sweep_of_the_help_is_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("\n".join(COMMANDS["sweep"].sample), encoding="utf-8")
    grid = read_sweep(file, OPTIONS)
    assert len(make_cells(CompiledRules(CATALOG), grid.optimizers, grid.options)) == 4


def test_help_pages_have_one_style() -> None:
    for page in PAGES:
        usage, *lines = optadvise(*page, "--help").out.splitlines()
        assert not re.search(r"[{}]|\[?[a-z]+\]?(?:\.\.\.)?$", usage.partition("[OPTIONS]")[2]), page
        headings = [line for line in lines if re.fullmatch(r"\S.*:", line)]
        shared = [heading for heading in headings if heading in ("Rules:", "Output:", "Options:")]
        assert shared == sorted(shared, key=["Rules:", "Output:", "Options:"].index), page
        assert "examples/" not in "\n".join(lines), page  # not installed with the package


def test_the_help_names_the_guide_and_lists_the_surfaces() -> None:
    text = " ".join(optadvise("--help").out.split())
    guide = CATALOG.sources["guide#decision-flowchart"]
    assert guide.title.partition(", section")[0] in text
    assert guide.url in text
    assert f"[{'|'.join(CATALOG.surfaces)}]" in optadvise("trajectories", "--help").out
