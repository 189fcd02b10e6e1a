"""Documents agree with the package: commands print the output shown, files exist, generated pages are current."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import optadvise as library
from optadvise.core.error_codes import ErrorCode
from optadvise.memory.networks import load_networks
from optadvise.rulebase.catalog import load
from tests import error_table
from tests.cli import optadvise
from tests.conftest import ROOT
from tests.source import read_modules
from tests.test_catalog import CARD

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def list_console_blocks() -> list[tuple[str, str]]:
    """Return each command of a console block and the output shown for it."""
    blocks = []
    for file in DOCUMENTS:
        for match in re.finditer(r"```console\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL):
            for part in re.split(r"(?m)^\$ ", match[1])[1:]:
                command, _, output = part.partition("\n")
                blocks.append((command, output))
    return blocks


@pytest.mark.parametrize(("command", "output"), list_console_blocks(), ids=lambda text: text[:60])
def test_a_console_block_shows_the_commands_output(command: str, output: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "optadvise"
    result = optadvise(*arguments)
    printed = result.out + result.err
    expected = [re.escape(part.strip("\n")) for part in output.split("…\n")]
    assert re.search(r"(?s)" + ".*?".join(expected), printed), printed


def test_the_program_in_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    quick: dict[str, Any] = {
        "steps": 1,
        "batch_size": 2,
        "seq_len": 16,
        "threads": 1,
    }  # the README's call takes a minute
    monkeypatch.setattr(library, "bench", partial(library.bench, **quick))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"model": torch.nn.Linear(4, 2)}
    exec(program, names)
    assert {"optimizer", "scheduler"} <= names.keys()


def test_the_two_installation_commands_of_the_readme_require_only_python() -> None:
    lines = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(lines) == 2
    assert all(len(block.strip().splitlines()) == 1 and block.startswith("python3 -m venv") for block in lines)
    assert "optadvise recommend" in lines[0]
    assert "pytest" in lines[1]


def test_the_readme_lists_every_command_and_exit_code() -> None:
    from optadvise.cli.app import COMMANDS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"optadvise {command}" in text
    for code in ("0", "1", "2", "3", "4", "5", "130"):
        assert re.search(rf"(?m)^\| {code} \|", text), code
    assert "CC BY 4.0" in text


def test_the_card_in_contributing_equals_the_tested_card() -> None:
    """`test_catalog.py` loads the same card."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = next(b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if b.startswith("id: sgd-turbo"))
    plain = "".join(re.sub(r"\s+# .*$", "", line) + "\n" for line in shown.splitlines())
    assert plain == CARD


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda f: f.name)
def test_files_mentioned_in_documents_exist(file: Path) -> None:
    for name in re.findall(r"`((?:optadvise|rules|tests|docs|examples|benchmarks)/[\w./-]*)`", file.read_text("utf-8")):
        assert (ROOT / name.rstrip("/")).exists(), f"{file.name} mentions {name}"


def test_the_numbers_in_the_changelog_equal_the_catalog() -> None:
    catalog = load()
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"{len(catalog.optimizer_ids)} optimizers, {len(catalog.scheduler_ids)} schedules" in text
    assert len(catalog.gpus) > 100
    assert f"{len(load_networks(catalog).shapes)} well-known architectures" in text


def test_the_page_of_error_codes_is_current() -> None:
    """`python -m tests.error_table` generates the page."""
    assert error_table.PAGE.read_text(encoding="utf-8") == error_table.format_page()
    assert [code for _, codes in error_table.list_groups() for code in codes] == list(ErrorCode)


def test_every_error_has_a_code_and_every_code_is_used() -> None:
    modules = read_modules(ROOT)
    assert error_table.list_errors_without_code(modules) == []
    default = ErrorCode.INTERNAL.name
    assert sorted(error_table.collect_uses(modules).keys() | {default}) == sorted(code.name for code in ErrorCode)
