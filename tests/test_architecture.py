"""Layering of packages, and the modules that commands import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "optadvise"

# Packages from the lowest layer to the highest: a module can import its own package and those before it.
PACKAGES = (
    "core", "rulebase", "memory", "evidence", "advice", "rule_analysis", "codegen", "diagnostics", "benchmark",
    "fake_tensors", "verify", "render", "api", "cli", "__main__",
)  # fmt: skip
THIRD_PARTY = {
    "yaml": ("core", "rulebase", "memory", "rule_analysis", "codegen", "render", "benchmark"),
    "rich": ("render",),
    "jinja2": ("core", "render", "codegen"),
    "typer": ("cli",),
}
# The top-level package imports the library on first access.
PUBLIC_IMPORTS = {
    ("optadvise", "optadvise.api"),
    ("optadvise", "optadvise.core.version"),
}
DRAWING = ("matplotlib", "PIL", "mpl_toolkits")
HEAVY = ("torch", "numpy", "bitsandbytes", "lion_pytorch", "optimi", "pytorch_optimizer")
# Modules that run in worker processes or build the user's optimizer, by package.
MAY_IMPORT_TORCH = {
    "benchmark": {"arm_session", "clock", "optimizer_builder", "workloads", "workload_networks", "workload_data",
                  "user_workload", "training_loop", "peak_memory", "step_overhead", "gpu_settings", "wrapping",
                  "ranks", "launch", "communication"},
    "fake_tensors": {"worker", "step", "values", "tracker", "cuda_emulation"},
    "verify": {"worker", "reference", "matrix_reference", "reference_types", "known_deviations", "audit", "builder",
               "usage", "experiments", "training", "trajectories"},
    "diagnostics": {"probe"},
}  # fmt: skip
CLOCKS = {"time", "datetime"}
WITHOUT_CLOCK = {"rulebase", "memory", "advice", "rule_analysis", "codegen"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """Return the subpackage of a module; empty for `optadvise` itself."""
    package = module.removeprefix("optadvise").lstrip(".").split(".")[0]
    assert not package or package in PACKAGES, f"{module}: add its package to PACKAGES in {__file__}"
    return package


def imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_internal = node.module.split(".")[0] == "optadvise"
            folder = ROOT / node.module.replace(".", "/")
            submodules = [
                f"{node.module}.{a.name}" for a in node.names if is_internal and (folder / f"{a.name}.py").exists()
            ]
            names += submodules or [node.module]
    return names


def test_the_top_level_has_only_entry_modules() -> None:
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "api.py"}


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_follow_the_layers(file: Path) -> None:
    module = name_of(file)
    package = package_of(module)
    for imported in imports(file):
        top = imported.split(".")[0]
        if (module, imported) in PUBLIC_IMPORTS or imported == "optadvise":
            continue
        if top == "optadvise":
            assert PACKAGES.index(package_of(imported)) <= PACKAGES.index(package), f"{module} imports {imported}"
        elif top in DRAWING:
            assert module == "optadvise.render.plots.figures", f"{module} imports {imported}"
        elif top in THIRD_PARTY:
            assert package in THIRD_PARTY[top], f"{module} imports {imported}"
        elif top in HEAVY:
            assert module.rsplit(".", 1)[1] in MAY_IMPORT_TORCH.get(package, ()), f"{module} imports {imported}"
        elif top in CLOCKS:
            assert package not in WITHOUT_CLOCK, f"{module} imports {imported}"


def test_code_has_no_conditions_on_names_of_optimizers() -> None:
    """Optimizers are described in rules/; a condition on a name means that the data model lacks a field."""
    from optadvise.rulebase.catalog import load

    catalog = load()
    names = {*catalog.optimizer_ids, *catalog.scheduler_ids, *(gpu.id for gpu in catalog.gpus)}
    # The shapes of phases belong to the data model, although some schedules have the same names.
    names -= {phase.shape for name in catalog.scheduler_ids for phase in catalog.scheduler(name).phases}
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.If, ast.IfExp, ast.Compare, ast.Match)):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        assert inner.value not in names, f"{file}:{inner.lineno} names {inner.value}"


LOADED = """
import json, sys
sys.argv = ["optadvise", *{arguments!r}]
from optadvise.cli.app import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def run_and_list_modules(arguments: list[str], *, block_torch: bool = False) -> tuple[int, set[str]]:
    block = (
        "import sys\nfor name in ('torch', 'bitsandbytes', 'numpy'): sys.modules[name] = None\n" if block_torch else ""
    )
    command = [sys.executable, "-c", block + LOADED.format(arguments=arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    code, names = json.loads(done.stderr.strip().splitlines()[-1])
    return code, set(names)


COMMANDS = [
    ["recommend", "--model", "transformer", "--vram", "24GB"],
    ["recommend", "--model", "transformer", "--vram", "24GB", "--json"],
    ["recommend", "--model", "cnn", "--format", "python"],
    ["schedule", "wsd"], ["schedule", "wsd", "--json"],
    ["list"], ["list", "--tree"], ["show", "adamw8bit"], ["show", "OPT040"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_recommendations_do_not_import_torch(arguments: list[str]) -> None:
    code, names = run_and_list_modules(arguments)
    assert code == 0
    assert {n.split(".")[0] for n in names}.isdisjoint((*HEAVY, *DRAWING))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_recommendations_work_without_torch(arguments: list[str]) -> None:
    code, _ = run_and_list_modules(arguments, block_torch=True)
    assert code == 0


def test_json_output_imports_neither_rich_nor_yaml_with_a_warm_cache() -> None:
    run_and_list_modules(COMMANDS[1])
    _, names = run_and_list_modules(COMMANDS[1])
    assert not names & {"rich", "yaml"}
